"""Checks the data of a config."""

from __future__ import annotations

import argparse
import os
import sys

from rich.console import Console

from ...analysis.dataset_pictures import draw_images, sample_images
from ...data.findings import findings_table
from ...data.full_check import check_dataset
from ..arguments import add_config_arguments
from ..configs import config_name, read_config
from ..messages import one_sentence_errors, progress_bars


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.description = (
        'Check the annotation files and all images of a config. The exit code is 1 if there are '
        'errors.'
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--splits',
        nargs='+',
        choices=['train', 'val', 'test'],
        default=['train', 'val', 'test'],
        help='splits to check; all by default',
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=os.cpu_count() or 1,
        help='number of images opened at the same time',
    )
    parser.add_argument(
        '--picture',
        help='picture file for sampled images; by default data_CONFIG.png in the work folder',
    )
    parser.add_argument('--samples', type=int, default=8, help='images per dataset in that picture')
    add_config_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Runs the command."""
    with one_sentence_errors(every_error=True):
        if args.workers < 1 or args.samples < 0:
            raise ValueError('--workers must be at least 1 and --samples at least 0')
        cfg = read_config(args)
        with progress_bars('images') as start:
            report = check_dataset(cfg, args.splits, args.workers, start)
        Console(width=None if sys.stdout.isatty() else 120).print(findings_table(report.findings))
        images = [
            image
            for source, coco in report.files.items()
            for image in sample_images(source, coco, args.samples)
        ]
        if images:
            path = args.picture or f'{cfg.work_dir}/data_{config_name(args)}.png'
            draw_images(images, path)
            print(f'sampled images with their boxes: {path}')
    if report.failed:
        sys.exit(1)
