"""Draws the curves of runs. Usage: python tools/plot_curves.py WORK_DIR... [--x hours]"""

import argparse
import sys
from pathlib import Path

try:
    import mmdet_dinov2  # noqa: F401  names what is missing, with the command that installs it
except ImportError as error:
    sys.exit(f'error: {error}')

from mmdet_dinov2 import cli
from mmdet_dinov2.analysis.curves import X_AXES, draw_curves
from mmdet_dinov2.runs.run_log import read_run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Draw the losses, learning rate, AP, step time and memory of one or more runs'
    )
    parser.add_argument('runs', nargs='+', help='work folders, scalars.json files or CSV files')
    parser.add_argument(
        '--x', choices=X_AXES, default='steps', help='quantity on the horizontal axis'
    )
    parser.add_argument('--out', help='picture file; by default curves.png in the first folder')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with cli.one_sentence_errors(every_error=True):
        first = Path(args.runs[0])
        out = args.out or (first if first.is_dir() else first.parent) / 'curves.png'
        draw_curves([read_run(path) for path in args.runs], out, args.x)
    print(f'drawn: {out}')


if __name__ == '__main__':
    main()
