"""Trains a detector. Usage: python tools/train.py CONFIG [--data PATH] [--amp] [--resume] ..."""

import argparse
import sys

try:
    import mmdet_dinov2  # noqa: F401  names what is missing, with the command that installs it
except ImportError as error:
    sys.exit(f'error: {error}')

from mmengine.config import Config

from mmdet_dinov2 import cli
from mmdet_dinov2.config import scaling
from mmdet_dinov2.data.own_config import repeat_small_training_set
from mmdet_dinov2.engine import batch
from mmdet_dinov2.engine.resume.choose import has_checkpoints


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a detector')
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
    parser.add_argument(
        '--lr-rule',
        choices=scaling.LR_RULES,
        help='with --auto-scale-world-size: how the learning rate follows the number of '
        'processes; by default linear for SGD and sqrt for other optimizers',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint, or without a value from the last one in the work folder',
    )
    cli.add_common_arguments(parser)
    return parser.parse_args()


def apply_training_arguments(cfg: Config, args: argparse.Namespace) -> Config:
    world_size = cli.launched_world_size(args.launcher)
    if args.amp:
        cfg.merge_from_dict({'optim_wrapper.type': 'Bf16OptimWrapper'})
    if args.lr_rule and not args.auto_scale_world_size:
        raise ValueError('--lr-rule works with --auto-scale-world-size only; give both')
    if args.auto_scale_world_size:
        cfg, rows = scaling.auto_scale_world_size(cfg, world_size, args.lr_rule)
        if cli.is_first_process():
            print(scaling.format_table(rows))
    if args.keep_batch_size:
        batch.keep_batch_size(cfg, world_size)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ValueError(
                '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=N) in the config, where '
                'N is the total batch size that its learning rate was chosen for'
            )
        cfg.auto_scale_lr.enable = True
    if args.data:
        step = batch.EffectiveBatch(
            world_size, cfg.train_dataloader.batch_size, batch.check_accumulation(cfg.optim_wrapper)
        )
        note = repeat_small_training_set(cfg, step.total)
        if note and cli.is_first_process():
            print(f'data: {note}')
    if args.resume == 'auto':
        cfg.resume = has_checkpoints(cfg.work_dir)
        if cfg.resume:
            cfg.load_from = None  # the runner chooses
        elif cli.is_first_process():
            print(
                f'{cfg.work_dir} has no checkpoint to resume from: the training starts from scratch'
            )
    elif args.resume:
        cfg.resume = True
        cfg.load_from = args.resume
    return cfg


def main() -> None:
    args = parse_args()
    with cli.one_sentence_errors(every_error=True):
        cfg = cli.read_config(args)
        cfg = apply_training_arguments(cfg, args)
        cli.check(cfg, ('train', 'val'), preflight=not args.no_preflight)
        runner = cli.build_runner(cfg)
    with cli.one_sentence_errors():
        cli.work_and_exit(runner.train, args.launcher)


if __name__ == '__main__':
    main()
