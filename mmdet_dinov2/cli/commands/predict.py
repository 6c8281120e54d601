"""Detects objects in images, videos and the pictures of cameras."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ...data.annotation_file import read_annotations
from ...data.prediction_output import PICTURES
from ...errors import InputError
from ...inference import load
from ...inference.annotation_output import check_annotations, write_annotations
from ...inference.file_predictions import FilePredictor
from ...inference.image_inputs import expand_inputs
from ...inference.output_folder import EarlierOutputs, check_output
from ...inference.prediction_files import PredictionFiles
from ..arguments import add_trust_argument
from ..configs import find_model
from ..messages import one_sentence_errors, progress_bars

# Some inputs could not be read; the results of the others are written.
UNREADABLE_EXIT_CODE = 3
# The code that shells give to a program that Ctrl-C ended.
INTERRUPTED_EXIT_CODE = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.description = 'Detect objects in images, videos and the pictures of cameras'
    parser.add_argument(
        'model',
        help='checkpoint (it carries its config), or a config or work folder (the best checkpoint '
        'there is used)',
    )
    parser.add_argument(
        'inputs',
        nargs='+',
        help='images, videos, folders, patterns such as "*.jpg", or the index of a camera such as '
        '0, which Ctrl-C ends',
    )
    parser.add_argument('--checkpoint', help='checkpoint, if the first argument is a config')
    parser.add_argument('--out', default='predictions', help='folder for the results')
    parser.add_argument('--batch-size', type=int, default=1, help='images per batch')
    parser.add_argument(
        '--stride', type=int, default=1, metavar='N', help='predict every N-th frame of videos'
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='drop detections with a lower score from all results; use 0 to measure AP with them',
    )
    parser.add_argument('--device', help='such as cpu or cuda:1; by default a GPU, if there is one')
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
    parser.add_argument(
        '--no-pictures', action='store_true', help='write COCO results and CSV only, no pictures'
    )
    parser.add_argument(
        '--polygons',
        action='store_true',
        help='write masks as polygons, which may be a pixel off the border of the mask, in place '
        'of run lengths',
    )
    parser.add_argument(
        '--as-annotations',
        action='store_true',
        help='also write the detections as COCO annotations, predicted.json, to correct in a '
        'labeling tool; --score-thr decides which',
    )
    parser.add_argument(
        '--ann', help='COCO annotation file; the results use its image and category ids'
    )
    add_trust_argument(parser)


def main(args: argparse.Namespace) -> None:
    """Runs the command."""
    with one_sentence_errors(every_error=True):
        if not 0 <= args.score_thr <= 1:
            raise InputError(f'--score-thr must be between 0 and 1, but is {args.score_thr}')
        if args.batch_size < 1:
            raise InputError(f'--batch-size must be at least 1, but is {args.batch_size}')
        if args.stride < 1:
            raise InputError(f'--stride must be at least 1, but is {args.stride}')
        out = Path(args.out)
        earlier = EarlierOutputs(None if args.no_pictures else out)
        files = expand_inputs(args.inputs, earlier)
        if earlier.skipped:
            print(f'note: {earlier.note()}', file=sys.stderr)
        drawn = {} if args.no_pictures else {file.picture: file.path for file in files}
        check_output(out, drawn)
        if args.as_annotations:
            check_annotations(out, files)
        videos = [file.path for file in files if file.is_video]
        if args.ann and videos:
            raise InputError(
                f'--ann names a file that lists images, but {videos[0]} is a video or a camera; '
                'leave --ann out, or predict images only'
            )
        annotations = read_annotations(args.ann) if args.ann else None
        config, checkpoint = find_model(args.model, args.checkpoint)
        detector = load(checkpoint, config, args.device, args.tta, args.tile)
        results = PredictionFiles(
            out, detector.classes, annotations, not args.no_pictures, args.polygons
        )
        results.check_names([file.name for file in files])
        pictures = None if args.no_pictures else out / PICTURES
        predictor = FilePredictor(
            detector, results, pictures, args.batch_size, args.score_thr, args.stride
        )
    interrupted = False
    with one_sentence_errors():
        try:
            with progress_bars('images') as start:
                predictor.predict(files, start)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            results.close()
    if args.as_annotations and predictor.num_images:
        with one_sentence_errors():
            print(f'annotations to correct: {write_annotations(out, files)}', file=sys.stderr)
    print(f'{predictor.num_images} images predicted: {out}', file=sys.stderr)
    for speed in predictor.speeds:
        print(speed, file=sys.stderr)
    for warning in predictor.warnings:
        print(f'warning: {warning}', file=sys.stderr)
    for problem in predictor.problems:
        print(f'not read: {problem}', file=sys.stderr)
    for problem in predictor.not_drawn.values():
        print(f'not drawn: {problem}', file=sys.stderr)
    if interrupted:
        print('error: interrupted; what was predicted before is kept', file=sys.stderr)
        sys.exit(INTERRUPTED_EXIT_CODE)
    failed = {'read': len(predictor.problems), 'drawn': len(predictor.not_drawn)}
    if any(failed.values()):
        counts = (f'{n} of {len(files)} inputs could not be {w}' for w, n in failed.items() if n)
        print(f'error: {", ".join(counts)}', file=sys.stderr)
        sys.exit(UNREADABLE_EXIT_CODE)
