"""Chooses photos to label, and finds near-duplicates."""

from __future__ import annotations

import argparse

from ...selection.selecting import DEFAULT_CONFIG, select_photos
from ..arguments import OptionsAction, add_trust_argument
from ..messages import one_sentence_errors, progress_bars, tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.description = (
        'Choose photos to label, as different as possible from each other and from labeled ones, '
        'and list near-duplicates: photos that are resized, compressed again or mirrored'
    )
    parser.add_argument(
        'config',
        nargs='?',
        help='config whose backbone compares photos; by default that of the checkpoint, else '
        f'{DEFAULT_CONFIG}',
    )
    parser.add_argument(
        '--unlabeled', required=True, metavar='FOLDER', help='folder of photos without labels'
    )
    parser.add_argument(
        '--data', metavar='PATH', help='folder of the labeled dataset, in any format of training'
    )
    parser.add_argument('--count', type=int, default=100, help='number of photos to choose')
    parser.add_argument(
        '--checkpoint',
        help='checkpoint of a detector: its backbone compares photos, and those that it is unsure '
        'of are preferred',
    )
    parser.add_argument(
        '--no-uncertainty',
        action='store_true',
        help='choose by the embeddings alone, without detecting in all photos',
    )
    parser.add_argument(
        '--out',
        default='work_dirs/select',
        help='folder for the lists, the sheets and the cache of the embeddings',
    )
    parser.add_argument(
        '--size', type=int, default=224, help='longer side of the photos for the backbone in pixels'
    )
    parser.add_argument('--batch-size', type=int, default=16, help='photos per batch')
    parser.add_argument('--device', help='such as cpu or cuda:1; by default a GPU, if there is one')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        metavar='KEY=VALUE',
        help='settings that override the config, as key=value',
    )
    add_trust_argument(parser)


def main(args: argparse.Namespace) -> None:
    """Runs the command."""
    with one_sentence_errors(every_error=True):
        result = select_photos(
            args.unlabeled,
            args.data,
            count=args.count,
            config=args.config,
            checkpoint=args.checkpoint,
            prefer_unsure=not args.no_uncertainty,
            out=args.out,
            size=args.size,
            batch_size=args.batch_size,
            device=args.device,
            options=args.cfg_options,
            tell=tell,
            bars=progress_bars,
        )
    print('written: ' + ', '.join(map(str, result.files)))
