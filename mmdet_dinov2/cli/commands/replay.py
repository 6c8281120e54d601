"""Replays a batch that stopped a training."""

from __future__ import annotations

import argparse
import sys

from ...engine.resume.replay import ReplayReport, replay
from ...wording import first_names
from ..arguments import add_config_arguments, add_trust_argument
from ..configs import read_config
from ..messages import one_sentence_errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.description = (
        'Run once more the batch that a training saved when its loss or gradient was '
        'non-finite, with the weights of that step, and show where the first non-finite value '
        'arises. The exit code is 1 if there is one.'
    )
    parser.add_argument('config', help='config file of the training')
    parser.add_argument('file', help='nonfinite_step_N_process_M.pth in the work folder')
    add_config_arguments(parser)
    add_trust_argument(parser)


def print_report(report: ReplayReport) -> None:
    for number, terms in enumerate(report.losses):
        print(f'micro-batch {number}: ' + '  '.join(f'{k}: {v:.4g}' for k, v in terms.items()))
    if report.finite:
        print('all losses, outputs and gradients are finite')
        return
    print(f'first module with a non-finite output: {report.first_module or "none"}')
    print(f'non-finite gradients: {first_names(report.gradients, limit=10) or "none"}')


def main(args: argparse.Namespace) -> None:
    """Runs the command."""
    with one_sentence_errors(every_error=True):
        report = replay(read_config(args), args.file)
        print_report(report)
    sys.exit(0 if report.finite else 1)
