"""Trains a detector. Usage: python tools/train.py CONFIG [--amp] [--resume] ..."""

import argparse

from mmengine.config import Config

from mmdet_dinov2.engine import cli


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a detector')
    parser.add_argument('config', help='config file')
    parser.add_argument('--amp', action='store_true', help='train in bf16 mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the batch size over auto_scale_lr.base_batch_size',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from this checkpoint, or without a value from the last one in the work folder',
    )
    cli.add_common_arguments(parser)
    return parser.parse_args()


def apply_training_arguments(cfg: Config, args: argparse.Namespace) -> None:
    if args.amp:
        cfg.optim_wrapper.type = 'Bf16OptimWrapper'
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ValueError(
                '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=N) in the config, N '
                'being the total batch size that its learning rate was chosen for'
            )
        cfg.auto_scale_lr.enable = True
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume


def main() -> None:
    args = parse_args()
    with cli.one_sentence_errors(every_error=True):
        cfg = cli.read_config(args)
        apply_training_arguments(cfg, args)
        cli.check(cfg, ('train', 'val'), preflight=not args.no_preflight)
        runner = cli.build_runner(cfg)
    with cli.one_sentence_errors():
        runner.train()


if __name__ == '__main__':
    main()
