"""Looks at a batch that stopped a training. Usage: python tools/replay_batch.py CONFIG FILE"""

import argparse
import sys

try:
    import mmdet_dinov2  # noqa: F401  names what is missing, with the command that installs it
except ImportError as error:
    sys.exit(f'error: {error}')

from mmdet_dinov2 import cli
from mmdet_dinov2.engine.resume.replay import ReplayReport, replay

_MOST_NAMES = 10


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Run the batch that a training kept when its loss was not finite once more, '
        'with the weights of that moment, and show where the numbers go wrong. Ends with 1 if they '
        'do.'
    )
    parser.add_argument('config', help='config file of the training')
    parser.add_argument('file', help='nonfinite_step_N_process_M.pth from the work folder')
    cli.add_config_arguments(parser)
    return parser.parse_args()


def print_report(report: ReplayReport) -> None:
    for number, terms in enumerate(report.losses):
        print(f'micro-batch {number}: ' + '  '.join(f'{k}: {v:.4g}' for k, v in terms.items()))
    if report.finite:
        print('all losses, outputs and gradients are finite')
        return
    print(f'first module with numbers that are not finite: {report.first_module or "none"}')
    names = report.gradients
    more = f' and {len(names) - _MOST_NAMES} more' if len(names) > _MOST_NAMES else ''
    print(f'gradients that are not finite: {", ".join(names[:_MOST_NAMES]) or "none"}{more}')


def main() -> None:
    args = parse_args()
    with cli.one_sentence_errors(every_error=True):
        report = replay(cli.read_config(args), args.file)
        print_report(report)
    sys.exit(0 if report.finite else 1)


if __name__ == '__main__':
    main()
