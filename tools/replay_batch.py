"""Replays a batch that stopped a training. Usage: python tools/replay_batch.py CONFIG FILE"""

import argparse
import sys

try:
    import mmdet_dinov2  # noqa: F401  names what is missing, with the command that installs it
except ImportError as error:
    sys.exit(f'error: {error}')

from mmdet_dinov2 import cli
from mmdet_dinov2.engine.resume.replay import ReplayReport, replay
from mmdet_dinov2.wording import first_names


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Run once more the batch that a training saved when its loss or gradient was '
        'non-finite, with the weights of that step, and show where the first non-finite value '
        'arises. The exit code is 1 if there is one.'
    )
    parser.add_argument('config', help='config file of the training')
    parser.add_argument('file', help='nonfinite_step_N_process_M.pth in the work folder')
    cli.add_config_arguments(parser)
    return parser.parse_args()


def print_report(report: ReplayReport) -> None:
    for number, terms in enumerate(report.losses):
        print(f'micro-batch {number}: ' + '  '.join(f'{k}: {v:.4g}' for k, v in terms.items()))
    if report.finite:
        print('all losses, outputs and gradients are finite')
        return
    print(f'first module with a non-finite output: {report.first_module or "none"}')
    print(f'non-finite gradients: {first_names(report.gradients, limit=10) or "none"}')


def main() -> None:
    args = parse_args()
    with cli.one_sentence_errors(every_error=True):
        report = replay(cli.read_config(args), args.file)
        print_report(report)
    sys.exit(0 if report.finite else 1)


if __name__ == '__main__':
    main()
