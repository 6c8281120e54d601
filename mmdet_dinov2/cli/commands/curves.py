"""Draws the curves of runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...analysis.curves import X_AXES, draw_curves
from ...runs.run_log import read_run
from ..messages import one_sentence_errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.description = (
        'Draw the losses, learning rate, AP, step time and memory of one or more runs'
    )
    parser.add_argument('runs', nargs='+', help='work folders, scalars.json files or CSV files')
    parser.add_argument(
        '--x', choices=X_AXES, default='steps', help='quantity on the horizontal axis'
    )
    parser.add_argument('--out', help='picture file; by default curves.png in the first folder')


def main(args: argparse.Namespace) -> None:
    """Runs the command."""
    with one_sentence_errors(every_error=True):
        first = Path(args.runs[0])
        out = args.out or (first if first.is_dir() else first.parent) / 'curves.png'
        draw_curves([read_run(path) for path in args.runs], out, args.x)
    print(f'drawn: {out}')
