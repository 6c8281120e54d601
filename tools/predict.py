"""Predicts on images. Usage: python tools/predict.py CHECKPOINT IMAGES... [--out DIR] ..."""

import argparse
import sys
from pathlib import Path

try:
    import mmdet_dinov2  # names what is missing, with the command that installs it
except ImportError as error:
    sys.exit(f'error: {error}')

from mmdet_dinov2 import cli
from mmdet_dinov2.checkpoint.reading import TRUST_FLAG, trust_checkpoints
from mmdet_dinov2.data.coco_file import read_coco_file
from mmdet_dinov2.drawing.box_pictures import draw_detections
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.inference.image_inputs import InputFile, Video, expand_inputs
from mmdet_dinov2.inference.prediction_files import PredictionFiles, VideoFile, write_picture

# Some inputs could not be read; the others are done.
UNREADABLE_EXIT_CODE = 3
# As shells report Ctrl-C.
INTERRUPTED_EXIT_CODE = 130


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Detect objects in images and videos')
    parser.add_argument(
        'model',
        help='checkpoint, which carries its config; or a config or work folder, whose best '
        'checkpoint is taken',
    )
    parser.add_argument(
        'inputs', nargs='+', help='images, videos, folders, patterns such as "*.jpg"'
    )
    parser.add_argument('--checkpoint', help='checkpoint, if the first argument is a config')
    parser.add_argument('--out', default='predictions', help='folder for the results')
    parser.add_argument('--batch-size', type=int, default=1, help='images computed together')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='leave out detections with a lower score, in all results; 0 to measure AP with them',
    )
    parser.add_argument('--device', help='such as cpu or cuda:1; a GPU if there is one, by default')
    parser.add_argument(
        '--no-pictures', action='store_true', help='write COCO results and CSV only'
    )
    parser.add_argument(
        '--ann', help='COCO annotation file whose ids of images and categories the results take'
    )
    parser.add_argument(
        TRUST_FLAG,
        action='store_true',
        help='load checkpoints that run code; only for files whose author you trust',
    )
    args = parser.parse_args()
    if not 0 <= args.score_thr <= 1:
        parser.error(f'--score-thr must be between 0 and 1, but is {args.score_thr}')
    if args.batch_size < 1:
        parser.error(f'--batch-size must be at least 1, but is {args.batch_size}')
    return args


class Run:
    """Predicts on files and keeps what comes of it."""

    def __init__(self, args: argparse.Namespace, files: list[InputFile]) -> None:
        self.files = files
        self.folder = Path(args.out)
        self.pictures = None if args.no_pictures else self.folder / 'pictures'
        annotations = read_coco_file(args.ann) if args.ann else None
        config, checkpoint = cli.find_model(args.model, args.checkpoint)
        self.detector = mmdet_dinov2.load(checkpoint, config, args.device)
        self.options = dict(batch_size=args.batch_size, score_thr=args.score_thr)
        self.results = PredictionFiles(self.detector.classes, annotations)
        self.results.check_names([file.name for file in files if not file.is_video])
        self.unreadable: list[str] = []
        self.num_images = 0

    def images(self, files: list[InputFile]) -> None:
        """Predicts on images."""
        if not files:
            return
        predictions = self.detector.predict_each((file.path for file in files), **self.options)
        bar = cli.progress_bar(len(files))
        for file, prediction in zip(files, predictions, strict=True):
            if prediction.sample is None:
                self.unreadable.append(prediction.problem)
            else:
                picture = self.keep(file.name, prediction)
                if picture is not None:
                    write_picture(self.pictures / file.name, picture)
            bar.update()

    def video(self, file: InputFile) -> None:
        """Predicts on the frames of a video."""
        try:
            video = Video(file.path)
        except InputError as error:
            self.unreadable.append(str(error))
            return
        bar = cli.progress_bar(len(video))
        out = None
        if self.pictures is not None:
            name = file.name if file.name.endswith('.mp4') else f'{file.name}.mp4'
            out = VideoFile(self.pictures / name, video.fps)
        try:
            for index, prediction in enumerate(self.detector.predict_each(video, **self.options)):
                picture = self.keep(f'{file.name}/{index:06d}', prediction)
                if out is not None:
                    out.append(picture)
                bar.update()
        finally:
            if out is not None:
                out.close()

    def keep(self, name: str, prediction):
        """Adds a prediction to the results and draws it, if pictures are asked for."""
        self.num_images += 1
        self.results.add(name, prediction.sample)
        if self.pictures is None:
            return None
        sample = prediction.sample
        return draw_detections(prediction.image, sample.pred_instances, self.detector.classes)


def main() -> None:
    args = parse_args()
    with cli.one_sentence_errors(every_error=True):
        if args.trust_checkpoint:
            trust_checkpoints()
        files = expand_inputs(args.inputs)
        run = Run(args, files)
    interrupted = False
    with cli.one_sentence_errors():
        try:
            run.images([file for file in files if not file.is_video])
            for file in files:
                if file.is_video:
                    run.video(file)
        except KeyboardInterrupt:
            interrupted = True
        run.results.write(run.folder)
    print(f'\n{run.num_images} images predicted: {run.folder}', file=sys.stderr)
    for problem in run.unreadable:
        print(f'not read: {problem}', file=sys.stderr)
    if interrupted:
        print('error: interrupted; what was predicted before is kept', file=sys.stderr)
        sys.exit(INTERRUPTED_EXIT_CODE)
    if run.unreadable:
        count = len(run.unreadable)
        print(f'error: {count} of {len(files)} inputs could not be read', file=sys.stderr)
        sys.exit(UNREADABLE_EXIT_CODE)


if __name__ == '__main__':
    main()
