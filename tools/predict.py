"""Detects objects in images and videos. Usage: python tools/predict.py CHECKPOINT IMAGES..."""

import argparse
import sys
from pathlib import Path

try:
    import mmdet_dinov2  # names what is missing, with the command that installs it
except ImportError as error:
    sys.exit(f'error: {error}')

from mmdet_dinov2 import cli
from mmdet_dinov2.checkpoint import trust_checkpoints
from mmdet_dinov2.data.coco_file import read_coco_file
from mmdet_dinov2.inference.file_predictions import FilePredictor
from mmdet_dinov2.inference.image_inputs import expand_inputs
from mmdet_dinov2.inference.prediction_files import PredictionFiles

# Some inputs could not be read; the results of the others are written.
UNREADABLE_EXIT_CODE = 3
# The code that shells give to a program that Ctrl-C ended.
INTERRUPTED_EXIT_CODE = 130


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Detect objects in images and videos')
    parser.add_argument(
        'model',
        help='checkpoint (it carries its config), or a config or work folder (the best checkpoint '
        'there is used)',
    )
    parser.add_argument(
        'inputs', nargs='+', help='images, videos, folders, or patterns such as "*.jpg"'
    )
    parser.add_argument('--checkpoint', help='checkpoint, if the first argument is a config')
    parser.add_argument('--out', default='predictions', help='folder for the results')
    parser.add_argument('--batch-size', type=int, default=1, help='images per batch')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='drop detections with a lower score from all results; use 0 to measure AP with them',
    )
    parser.add_argument('--device', help='such as cpu or cuda:1; by default a GPU, if there is one')
    parser.add_argument(
        '--no-pictures', action='store_true', help='write COCO results and CSV only, no pictures'
    )
    parser.add_argument(
        '--ann', help='COCO annotation file; the results use its image and category ids'
    )
    cli.add_trust_argument(parser)
    args = parser.parse_args()
    if not 0 <= args.score_thr <= 1:
        parser.error(f'--score-thr must be between 0 and 1, but is {args.score_thr}')
    if args.batch_size < 1:
        parser.error(f'--batch-size must be at least 1, but is {args.batch_size}')
    return args


def main() -> None:
    args = parse_args()
    with cli.one_sentence_errors(every_error=True):
        if args.trust_checkpoint:
            trust_checkpoints()
        files = expand_inputs(args.inputs)
        annotations = read_coco_file(args.ann) if args.ann else None
        config, checkpoint = cli.find_model(args.model, args.checkpoint)
        detector = mmdet_dinov2.load(checkpoint, config, args.device)
        results = PredictionFiles(detector.classes, annotations)
        results.check_names([file.name for file in files if not file.is_video])
        out = Path(args.out)
        pictures = None if args.no_pictures else out / 'pictures'
        predictor = FilePredictor(detector, results, pictures, args.batch_size, args.score_thr)
    interrupted = False
    with cli.one_sentence_errors():
        try:
            with cli.progress_bars('images') as start:
                predictor.predict(files, start)
        except KeyboardInterrupt:
            interrupted = True
        results.write(out)
    print(f'{predictor.num_images} images predicted: {out}', file=sys.stderr)
    for problem in predictor.problems:
        print(f'not read: {problem}', file=sys.stderr)
    if interrupted:
        print('error: interrupted; what was predicted before is kept', file=sys.stderr)
        sys.exit(INTERRUPTED_EXIT_CODE)
    if predictor.problems:
        count = len(predictor.problems)
        print(f'error: {count} of {len(files)} inputs could not be read', file=sys.stderr)
        sys.exit(UNREADABLE_EXIT_CODE)


if __name__ == '__main__':
    main()
