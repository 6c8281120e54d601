"""Evaluates a checkpoint."""

from __future__ import annotations

import argparse

from mmdet.engine.hooks.utils import trigger_visualization_hook

from ...config.tiles import tile_of, use_tiles
from ...config.tta import use_tta
from ...engine.training import build_runner, check
from ...evaluation import DumpRunLengths
from ...inference.exported_detector import is_exported, use_exported
from ..arguments import add_common_arguments
from ..configs import read_config
from ..messages import one_sentence_errors, tell
from ..processes import work_and_exit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.description = 'Evaluate a detector'
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint of the detector, or an exported file')
    parser.add_argument('--out', help='pickle file (.pkl) to write the predictions to')
    parser.add_argument('--show', action='store_true', help='show each image with its detections')
    parser.add_argument(
        '--show-dir', help='folder, within the work folder, for images with their detections'
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds that --show shows each image for'
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help='detect in flipped and scaled views of each image and merge the detections',
    )
    parser.add_argument(
        '--tile',
        type=int,
        metavar='SIZE',
        help='detect in tiles of so many pixels of larger images and merge the detections',
    )
    add_common_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Runs the command."""
    with one_sentence_errors(every_error=True):
        if args.out and not args.out.endswith(('.pkl', '.pickle')):
            raise ValueError(f'--out {args.out} must end in .pkl or .pickle')
        cfg = read_config(args)
        cfg.load_from = args.checkpoint
        cfg.resume = False
        # Sharding would initialise a model that is loaded here; to predict, it need not be sharded.
        cfg.pop('model_wrapper_cfg', None)
        if is_exported(args.checkpoint):
            use_exported(cfg, args.checkpoint)
        use_tiles(cfg, args.tile)
        if args.tta and tile_of(cfg.model) is not None:
            raise ValueError('tiles and --tta do not work together; leave one of them out')
        if args.tta:
            use_tta(cfg)
        if args.show or args.show_dir:
            cfg = trigger_visualization_hook(cfg, args)
        check(cfg, ('test',), not args.no_preflight, tell)
        runner = build_runner(cfg)
        if args.out:
            runner.test_evaluator.metrics.append(DumpRunLengths(out_file_path=args.out))
    with one_sentence_errors():
        work_and_exit(runner.test, args.launcher)
