"""Measures what detectors cost and how they compare with their peers."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch

from ...benchmark.cost import Workload, measure_costs
from ...benchmark.detectors import PRECISIONS
from ...benchmark.exported import measure_exported
from ...benchmark.machine import describe_machine
from ...benchmark.picture import draw_report
from ...benchmark.settings import Settings
from ...benchmark.suites import SUITES
from ...benchmark.tables import BenchmarkReport
from ...benchmark.tradeoff import measure_tradeoff
from ...benchmark.workloads import detr_sizes, fixed_sizes, sizes_within
from ...config.files import find_config
from ...errors import InputError
from ...inference.exported_detector import is_exported
from ...models import DINOv2, DINOv3
from ...quiet_logging import without_messages
from ..arguments import OptionsAction, add_trust_argument
from ..messages import one_sentence_errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.description = 'Measure what detectors cost and how they compare with their peers'
    parser.epilog = 'suites:\n' + '\n'.join(f'  {k:15}{v.__doc__}' for k, v in SUITES.items())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        'configs',
        nargs='*',
        metavar='CONFIG',
        help='config files; or exported files, and the checkpoint that they come from',
    )
    parser.add_argument(
        '--suite', choices=SUITES, help='run a named comparison instead of measuring configs'
    )
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='with --suite: tiny sizes, to see that everything runs',
    )
    parser.add_argument(
        '--arch',
        nargs='+',
        choices={**DINOv2.ARCHS, **DINOv3.ARCHS},
        help='backbones to use instead of that of the config',
    )
    parser.add_argument(
        '--precision', nargs='+', choices=PRECISIONS, default=['fp32'], help='precisions to measure'
    )
    parser.add_argument('--batch-size', nargs='+', type=int, default=[2], help='images per batch')
    parser.add_argument(
        '--batches',
        type=int,
        default=1,
        help='number of batches, each with images of its own sizes',
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        '--long-side',
        type=int,
        help='long side of the images; by default sizes of DETR (480..1333)',
    )
    sizes.add_argument('--sizes', nargs='+', help='image sizes as HEIGHTxWIDTH, used in turns')
    parser.add_argument(
        '--load-data', action='store_true', help='load training batches from the data of the config'
    )
    parser.add_argument(
        '--images',
        nargs='+',
        type=int,
        default=[10_000],
        metavar='N',
        help='with --suite scale: numbers of images; COCO has 118287',
    )
    parser.add_argument(
        '--rfdetr',
        metavar='FOLDER',
        help='with --suite real-time: virtual environment, or folder of pip install --target, that '
        'has rfdetr',
    )
    parser.add_argument(
        '--compare', action='store_true', help='also measure the peers that are installed'
    )
    parser.add_argument(
        '--checkpoint',
        nargs='+',
        metavar='FILE',
        default=[],
        help='checkpoint of each config: measure AP over the time to predict; with --suite tiles: '
        'that of the detector, by default random weights',
    )
    parser.add_argument(
        '--num-queries', nargs='+', type=int, default=[], metavar='N',
        help='with --checkpoint: numbers of queries to predict with, up to those of the config',
    )  # fmt: skip
    parser.add_argument(
        '--num-decoder-layers', nargs='+', type=int, default=[], metavar='N',
        help='with --checkpoint: numbers of decoder layers to predict with',
    )  # fmt: skip
    parser.add_argument(
        '--data', metavar='PATH', help='with --checkpoint: folder of a dataset to use instead'
    )
    parser.add_argument('--repeats', type=int, help='rounds of each measurement')
    parser.add_argument('--seed', type=int, default=0, help='seed of weights, images and boxes')
    parser.add_argument('--threads', type=int, help='threads of PyTorch on the CPU')
    parser.add_argument('--device', help='cpu or cuda; by default cuda, if there is a GPU')
    parser.add_argument(
        '--time-limit', type=float, default=600, help='largest number of seconds of a case'
    )
    parser.add_argument(
        '--work-dir', default='work_dirs/benchmark', help='folder for tables and pictures'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=OptionsAction, default={},
        help='settings that override the configs, as key=value',
    )  # fmt: skip
    add_trust_argument(parser)


def parse_size(text: str) -> tuple[int, int]:
    height, _, width = text.partition('x')
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise InputError(
            f'--sizes expects sizes such as 480x640 (height x width), but got {text!r}'
        )
    return int(height), int(width)


def workload_of(args: argparse.Namespace) -> Workload:
    draw = detr_sizes
    if args.long_side:
        draw = partial(sizes_within, args.long_side)
    elif args.sizes:
        draw = partial(fixed_sizes, [parse_size(size) for size in args.sizes])
    return Workload(
        draw,
        archs=args.arch or [None],
        precisions=args.precision,
        batch_sizes=args.batch_size,
        num_batches=args.batches,
        options=args.cfg_options,
        from_config=args.load_data,
        compare=args.compare,
    )


def _measure_exported(
    args: argparse.Namespace, report: BenchmarkReport, settings: Settings
) -> None:
    files = [name for name in args.configs if is_exported(name)]
    others = [name for name in args.configs if not is_exported(name)]
    if len(others) > 1:
        raise InputError(f'exported files are compared with one checkpoint, got {others}')
    if not args.sizes:
        raise InputError('exported files are measured at --sizes, such as 480x640 (height x width)')
    sizes = [parse_size(size) for size in args.sizes]
    batch_sizes = list(dict.fromkeys((1, *args.batch_size)))
    measure_exported(report, settings, files, others[0] if others else None, sizes, batch_sizes)


def _measure_tradeoff(
    args: argparse.Namespace, report: BenchmarkReport, settings: Settings
) -> None:
    if len(args.checkpoint) != len(args.configs):
        raise InputError(
            f'--checkpoint needs one file for each of the {len(args.configs)} configs, got '
            f'{len(args.checkpoint)}'
        )
    if args.device and args.device != ('cuda' if torch.cuda.is_available() else 'cpu'):
        raise InputError(
            '--checkpoint evaluates on the GPU if there is one; CUDA_VISIBLE_DEVICES= hides it'
        )
    models = list(zip(args.configs, args.checkpoint, strict=True))
    measure_tradeoff(
        report, settings, models, args.num_queries, args.num_decoder_layers, args.cfg_options,
        args.data,
    )  # fmt: skip


def main(args: argparse.Namespace) -> None:
    """Runs the command."""
    with one_sentence_errors(), without_messages():
        if bool(args.configs) == bool(args.suite):
            raise InputError('give one or more configs, or --suite')
        if args.threads:
            torch.set_num_threads(args.threads)
        available = 'cuda' if torch.cuda.is_available() else 'cpu'
        device = args.device or ('cpu' if args.dry_run else available)
        settings = Settings(
            device,
            args.seed,
            args.repeats,
            args.dry_run,
            args.time_limit,
            images=args.images,
            rfdetr=args.rfdetr,
            checkpoint=next(iter(args.checkpoint), None),
        )
        name = args.suite or '_'.join(Path(config).stem for config in args.configs)
        report = BenchmarkReport(args.work_dir, name, args.command_line, describe_machine(device))
        if args.suite:
            SUITES[args.suite](report, settings)
        elif args.checkpoint:
            _measure_tradeoff(args, report, settings)
        elif args.num_queries or args.num_decoder_layers or args.data:
            raise InputError('--num-queries, --num-decoder-layers and --data need --checkpoint')
        elif any(is_exported(name) for name in args.configs):
            _measure_exported(args, report, settings)
        else:
            configs = [find_config(config) for config in args.configs]
            measure_costs(report, settings, configs, workload_of(args))
        report.save()
        drawn = draw_report(report, f'{report.path}.png')
    print(f'\nwritten: {report.path}.md, .json' + ' and .png' * drawn)
