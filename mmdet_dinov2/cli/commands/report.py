"""Writes an HTML page about a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import Config

from ...analysis.report import render_report
from ...analysis.report_input import collect
from ...config.files import find_config
from ...files import write_text
from ..arguments import add_trust_argument
from ..messages import one_sentence_errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.description = 'Write one HTML page about a run'
    parser.add_argument('work_dir', help='work folder of the run')
    parser.add_argument(
        '--predictions',
        help='predictions on the validation split: COCO JSON, or the .pkl of `mmdet_dinov2 test '
        '--out`; by default the best checkpoint makes them',
    )
    parser.add_argument(
        '--no-predictions',
        action='store_true',
        help='do not run the model; the page then has no scores',
    )
    parser.add_argument('--checkpoint', help='checkpoint to make the predictions with')
    parser.add_argument('--ann-file', help='annotations; by default those of the validation split')
    parser.add_argument(
        '--img-dir', help='folder of the images; by default that of the annotations'
    )
    parser.add_argument('--base', help='config to compare with; by default the nearest one')
    parser.add_argument('--out', help='HTML file; by default report.html in the work folder')
    add_trust_argument(parser)


def main(args: argparse.Namespace) -> None:
    """Runs the command."""
    with one_sentence_errors(every_error=True):
        base = args.base and Config.fromfile(find_config(args.base)).to_dict()
        given = collect(
            args.work_dir,
            predictions=args.predictions,
            run_model=not args.no_predictions,
            checkpoint=args.checkpoint,
            ann_file=args.ann_file,
            image_folder=args.img_dir,
        )
        given.base = (Path(args.base).name, base) if base else None
        out = Path(args.out or Path(args.work_dir) / 'report.html')
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, render_report(given))
    for problem in given.problems:
        print(f'note: {problem}')
    print(f'written: {out} ({out.stat().st_size / 2**20:.1f} MiB)')
