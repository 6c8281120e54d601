"""Evaluates a checkpoint. Usage: python tools/test.py CONFIG CHECKPOINT [--data PATH] ..."""

import argparse
import sys

try:
    import mmdet_dinov2  # noqa: F401  names what is missing, with the command that installs it
except ImportError as error:
    sys.exit(f'error: {error}')

from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.evaluation import DumpDetResults

from mmdet_dinov2 import cli


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Evaluate a detector')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint of the detector')
    parser.add_argument('--out', help='pickle file (.pkl) to write the predictions to')
    parser.add_argument('--show', action='store_true', help='show each image with its detections')
    parser.add_argument(
        '--show-dir', help='folder, within the work folder, for images with their detections'
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds that --show shows each image for'
    )
    cli.add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with cli.one_sentence_errors(every_error=True):
        if args.out and not args.out.endswith(('.pkl', '.pickle')):
            raise ValueError(f'--out {args.out} must end in .pkl or .pickle')
        cfg = cli.read_config(args)
        cfg.load_from = args.checkpoint
        cfg.resume = False
        # Sharding would initialise a model that is loaded here; to predict, it need not be sharded.
        cfg.pop('model_wrapper_cfg', None)
        if args.show or args.show_dir:
            cfg = trigger_visualization_hook(cfg, args)
        cli.check(cfg, ('test',), preflight=not args.no_preflight)
        runner = cli.build_runner(cfg)
        if args.out:
            runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    with cli.one_sentence_errors():
        cli.work_and_exit(runner.test, args.launcher)


if __name__ == '__main__':
    main()
