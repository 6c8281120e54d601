"""Trains a detector."""

from __future__ import annotations

import argparse

from ...config.loggers import LOGGERS
from ...config.scaling import LR_RULES
from ...engine.training import build_runner, check, set_up_training
from ..arguments import add_common_arguments
from ..configs import read_config
from ..messages import one_sentence_errors, tell
from ..processes import launched_world_size, work_and_exit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.description = 'Train a detector'
    parser.add_argument('config', help='config file')
    parser.add_argument('--amp', action='store_true', help='train in bf16 mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='multiply the learning rate by batch size / auto_scale_lr.base_batch_size',
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        '--auto-scale-world-size',
        action='store_true',
        help='rescale learning rate and iterations from reference_world_size of the config to the '
        'number of processes; the images per process stay the same',
    )
    size.add_argument(
        '--keep-batch-size',
        action='store_true',
        help='accumulate gradients to reach auto_scale_lr.base_batch_size images per step',
    )
    size.add_argument(
        '--batch-size',
        type=_batch_size,
        metavar='N|auto',
        help='compute so many images at once, or as many as fit into memory, and accumulate '
        'gradients to the total batch of the recipe',
    )
    parser.add_argument(
        '--lr-rule',
        choices=LR_RULES,
        help='with --auto-scale-world-size: how the learning rate follows the number of '
        'processes; by default linear for SGD and sqrt for other optimizers',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const=True,
        default=False,
        metavar='CHECKPOINT',
        help='resume from this checkpoint, or without a value from the last one in the work folder',
    )
    parser.add_argument(
        '--logger', nargs='+', choices=LOGGERS, default=[], help='further loggers to write to'
    )
    parser.add_argument(
        '--unlabeled',
        metavar='FOLDER',
        help='learn from the photos in a folder too, which have no labels: the averaged detector '
        'labels them',
    )
    parser.add_argument(
        '--teacher',
        metavar='CHECKPOINT',
        help='trained detector that labels the photos of --unlabeled, in place of the averaged one',
    )
    add_common_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Runs the command."""
    with one_sentence_errors(every_error=True):
        cfg = set_up_training(
            read_config(args),
            resume=args.resume,
            amp=args.amp,
            auto_scale_lr=args.auto_scale_lr,
            keep_batch_size=args.keep_batch_size,
            batch_size=args.batch_size,
            auto_scale_world_size=args.auto_scale_world_size,
            lr_rule=args.lr_rule,
            loggers=args.logger,
            world_size=launched_world_size(args.launcher),
            tell=tell,
        )
        check(cfg, ('train', 'val'), not args.no_preflight, tell)
        runner = build_runner(cfg)
    with one_sentence_errors():
        work_and_exit(runner.train, args.launcher)


def _batch_size(text: str) -> int | str:
    if text != 'auto' and not (text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(
            f"must be a whole number of at least 1 or 'auto', but is {text!r}"
        )
    return text if text == 'auto' else int(text)
