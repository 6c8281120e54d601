"""Draws the learning rates of all parameter groups. Usage: python tools/print_lr.py CONFIG"""

import argparse
import sys

try:
    import mmdet_dinov2  # noqa: F401  names what is missing, with the command that installs it
except ImportError as error:
    sys.exit(f'error: {error}')

from mmdet_dinov2 import cli
from mmdet_dinov2.analysis.lr_curves import (
    describe_group,
    draw_lr_curves,
    epoch_length,
    lr_curves,
)
from mmdet_dinov2.wording import text_table


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Draw and print the learning rates of a training, before it runs'
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--epoch-length',
        type=int,
        help='optimizer steps per epoch; by default read from the training data',
    )
    parser.add_argument('--world-size', type=int, default=1, help='number of processes')
    parser.add_argument('--out', help='picture file; by default lr_CONFIG.png in the work folder')
    cli.add_config_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with cli.one_sentence_errors(every_error=True):
        cfg = cli.read_config(args)
        length = args.epoch_length
        if length is None and 'max_epochs' in cfg.train_cfg:
            length = epoch_length(cfg, args.world_size)
        curves = lr_curves(cfg, length)
        out = args.out or f'{cfg.work_dir}/lr_{cli.config_name(args)}.png'
        draw_lr_curves(curves, out, cli.config_name(args))
    rows = [
        (*(f'{rate:.3g}' for rate in (c.rates[0], c.rates.max(), c.rates[-1])), describe_group(c))
        for c in curves
    ]
    print(text_table(('first', 'highest', 'last', 'parameters'), rows))
    print(f'drawn: {out}')


if __name__ == '__main__':
    main()
