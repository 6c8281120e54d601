"""Draws the learning rates of all parameter groups."""

from __future__ import annotations

import argparse

from ...analysis.lr_curves import (
    describe_group,
    draw_lr_curves,
    epoch_length,
    lr_curves,
)
from ...wording import text_table
from ..arguments import add_config_arguments, at_least_one
from ..configs import config_name, read_config
from ..messages import one_sentence_errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.description = 'Draw and print the learning rates of a training, before it runs'
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--epoch-length',
        type=at_least_one,
        help='optimizer steps per epoch; by default read from the training data',
    )
    parser.add_argument('--world-size', type=at_least_one, default=1, help='number of processes')
    parser.add_argument('--out', help='picture file; by default lr_CONFIG.png in the work folder')
    add_config_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Runs the command."""
    with one_sentence_errors(every_error=True):
        cfg = read_config(args)
        length = args.epoch_length
        if length is None and 'max_epochs' in cfg.train_cfg:
            length = epoch_length(cfg, args.world_size)
        curves = lr_curves(cfg, length)
        out = args.out or f'{cfg.work_dir}/lr_{config_name(args)}.png'
        draw_lr_curves(curves, out, config_name(args))
    rows = [
        (*(f'{rate:.3g}' for rate in (c.rates[0], c.rates.max(), c.rates[-1])), describe_group(c))
        for c in curves
    ]
    print(text_table(('first', 'highest', 'last', 'parameters'), rows))
    print(f'drawn: {out}')
