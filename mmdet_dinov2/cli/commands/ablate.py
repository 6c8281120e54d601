"""Trains a config and changes of it with several seeds, and compares them."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ...benchmark.ablation import run_plan
from ...benchmark.isolated import CaseError
from ...benchmark.machine import describe_machine
from ...benchmark.picture import draw_report
from ...benchmark.tables import BenchmarkReport
from ...errors import InputError
from ..messages import one_sentence_errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.description = 'Train a config and changes of it with several seeds, and compare them'
    parser.add_argument('plan', help='Python file with config, changes and seeds')
    parser.add_argument(
        '--work-dir', help='folder for runs, table and picture; by default work_dirs/PLAN'
    )
    parser.add_argument(
        '--no-train', action='store_true', help='only write the table of the finished runs'
    )


def main(args: argparse.Namespace) -> None:
    """Runs the command."""
    name = Path(args.plan).stem
    work_dir = args.work_dir or Path('work_dirs') / name
    with one_sentence_errors(every_error=True):
        machine = describe_machine('cuda' if torch.cuda.is_available() else 'cpu')
        report = BenchmarkReport(work_dir, name, args.command_line, machine, echo=lambda line: None)
        try:
            run_plan(args.plan, report, work_dir, train_missing=not args.no_train)
        except CaseError as error:
            raise InputError(
                f'a run failed: {error}; the same command goes on from its last checkpoint'
            ) from error
        print(report.as_markdown())
        drawn = draw_report(report, f'{report.path}.png')
    print(f'\nwritten: {report.path}.md, .json' + ' and .png' * drawn)
