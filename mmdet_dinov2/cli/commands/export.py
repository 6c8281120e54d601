"""Writes a detector to a file that needs no PyTorch, and proves it."""

from __future__ import annotations

import argparse
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ...checkpoint import read_checkpoint
from ...checkpoint.embedded_config import whole_config
from ...checkpoint.reading import trusts_checkpoints
from ...data.local_dataset import with_local_datasets
from ...errors import InputError
from ...export.exporting import ExportSettings, check_settings, export
from ...export.formats import FORMATS, trtexec_command
from ...export.images import ProofImage, drawn_images, images_of_folder, images_of_split
from ...export.precision import PRECISIONS
from ...inference import Detector, load
from ...inference.exported_detector import is_exported
from ..arguments import add_trust_argument
from ..configs import find_model
from ..messages import one_sentence_errors, tell

_NUM_CALIBRATION_IMAGES = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.description = (
        'Write a detector to a file that needs no PyTorch. The file is run beside PyTorch on '
        'images of several sizes, and is kept only if both detect the same.'
    )
    parser.add_argument(
        'model',
        help='checkpoint (it carries its config), or a config or work folder (the best checkpoint '
        'there is used)',
    )
    parser.add_argument('--checkpoint', help='checkpoint, if the first argument is a config')
    parser.add_argument(
        '--out', type=Path, help='file to write; by default the name of the checkpoint'
    )
    parser.add_argument('--format', choices=FORMATS, default='onnx', help='format of the file')
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='let the graph take images of this size only; by default it takes any size',
    )
    parser.add_argument(
        '--precision',
        choices=PRECISIONS,
        default='fp32',
        help='precision of backbone, pyramid and large linear layers',
    )
    parser.add_argument(
        '--images',
        type=Path,
        help='folder of images to compare on; by default the validation split',
    )
    parser.add_argument(
        '--num-images', type=int, default=32, help='number of images to compare on; 0 for all'
    )
    parser.add_argument(
        '--calibration-images',
        type=Path,
        help='folder of images to calibrate int8 with; by default the training split',
    )
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='lowest score that readers of the file show'
    )
    parser.add_argument(
        '--with-reader',
        action='store_true',
        help='write reader.py beside the file: it predicts with numpy, OpenCV and onnxruntime',
    )
    add_trust_argument(parser)


def main(args: argparse.Namespace) -> None:
    """Runs the command."""
    with one_sentence_errors(every_error=True):
        config, checkpoint = find_model(args.model, args.checkpoint)
        if is_exported(checkpoint):
            raise InputError(f'{checkpoint} is exported already; name the checkpoint')
        if args.num_images < 0:
            raise InputError(f'--num-images must be 0 or more, but is {args.num_images}')
        settings = ExportSettings(
            args.format,
            args.size and tuple(args.size),
            args.precision,
            args.score_thr,
            args.with_reader,
            Path(checkpoint).name,
        )
        out = args.out or _beside(checkpoint).with_suffix(FORMATS[args.format])
        check_settings(out, settings)
        detector = load(checkpoint, config, 'cpu', tile=False)
        splits = ('val', 'train') if args.precision == 'int8' else ('val',)
        data = _data_config(config, checkpoint, splits)
        images = _images(args, data, detector)
        calibration = _calibration(args, data, detector)
        exported = export(detector, out, images, settings, calibration, tell)
    print(exported.proof.table())
    size = out.stat().st_size / 2**20
    print(f'written: {", ".join(map(str, exported.files))} ({size:.1f} MiB)')
    if settings.size is not None:
        height, width = settings.size
        print(f'it takes images of {height} x {width} pixels (height x width) only')
    if args.format == 'tensorrt':
        scale = (exported.metadata.resize or {}).get('scale', (640, 640))
        example = (min(scale), max(scale))
        fp16 = args.precision == 'fp16'
        print('with TensorRT, this command builds the engine, which is not proven:')
        print(trtexec_command(out, exported.metadata, example, fp16))


def _beside(checkpoint: str) -> Path:
    """Returns the path of a checkpoint; for an address, its name in the current folder."""
    if '://' not in checkpoint:
        return Path(checkpoint)
    return Path(Path(urllib.parse.urlparse(checkpoint).path).name)


def _data_config(config: str | None, checkpoint: str, splits: Sequence[str]) -> Mapping[str, Any]:
    """Returns a config that names the datasets of some splits; an empty one if there is none."""
    if config is not None:
        return Config.fromfile(config)
    content = read_checkpoint(checkpoint, mmap='://' not in checkpoint)
    try:
        found = whole_config(content, checkpoint)
    except InputError:
        return {}
    if trusts_checkpoints():
        return found
    try:
        return with_local_datasets(found, checkpoint, splits)
    except InputError as error:
        tell(f'note: no images of the config are used, as {error}')
        return {}


def _images(
    args: argparse.Namespace, data: Mapping[str, Any], detector: Detector
) -> list[ProofImage]:
    if args.images is not None:
        return images_of_folder(args.images, args.num_images)
    try:
        images = images_of_split(data, 'val', detector.classes, args.num_images)
        missing = next((i.source for i in images if not Path(i.source).is_file()), None)
        if images and missing is None:
            return images
        reason = f'{missing} does not exist' if missing else 'the config names none'
    except (InputError, FileNotFoundError) as error:
        reason = str(error)
    tell(f'note: compared on drawn pictures, without images of the validation split: {reason}')
    return drawn_images(args.num_images or _NUM_CALIBRATION_IMAGES)


def _calibration(
    args: argparse.Namespace, data: Mapping[str, Any], detector: Detector
) -> list[ProofImage]:
    if args.precision != 'int8':
        return []
    if args.calibration_images is not None:
        return images_of_folder(args.calibration_images, _NUM_CALIBRATION_IMAGES)
    return images_of_split(data, 'train', detector.classes, _NUM_CALIBRATION_IMAGES)
