"""Detects objects with an exported file; needs numpy, OpenCV, and onnxruntime or OpenVINO.

    python reader.py model.onnx image.jpg

This file needs no other file of the project that it comes from, so that it can be copied next to an
exported model. From Python:

    reader = Reader('model.onnx')
    for detection in reader.predict('image.jpg'):
        print(reader.classes[detection.label], detection.score, detection.box)

`model.onnx` runs with onnxruntime, or with OpenVINO where there is no onnxruntime; `model.xml` with
OpenVINO. What the model expects is in the metadata of the file. The graph takes `image`, normalised
images of one size (B, 3, H, W), fp32, and gives `boxes` (B, N, 4: x1, y1, x2, y2 in pixels of that
input), `scores` (B, N), highest first, and `labels` (B, N). A graph that finds masks gives `masks`,
logits (B, N, rows, columns) of cells of `mask_stride` pixels of the input, positive inside. A mask
ends at its box.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

FORMAT = 'mmdet_dinov2 detector'
FORMAT_VERSION = 1
INPUT = 'image'
OUTPUTS = ('boxes', 'scores', 'labels')
MASKS = 'masks'
SUFFIXES = ('.onnx', '.xml')
# Under this name OpenVINO files hold the metadata.
# Pixels of an image after resizing, as many as one may have before.
_MAX_PIXELS = 100_000_000
_OPENVINO_KEY = 'mmdet_dinov2'


class ReaderError(ValueError):
    """A file or an image cannot be used; the message is one sentence that says why."""


@dataclass(frozen=True)
class Metadata:
    """What an exported file says about itself; each value is JSON in the file.

    Attributes:
        classes: Class names, in the order of the labels.
        channel_order: Order of the channels of the input, 'rgb' or 'bgr'.
        mean: Subtracted from each channel, of values 0 to 255.
        std: Divides each channel after that.
        resize: ``{'scale': [a, b], 'keep_ratio': true}``: the largest size whose longer side is at
            most the larger number, and whose shorter side is at most the smaller one. Without
            ``keep_ratio``, [width, height]. Always bilinear without antialiasing, as OpenCV's
            ``INTER_LINEAR``. None leaves the size as it is.
        score_threshold: Lowest score that is worth showing.
        size: [height, width] of the only input that the graph takes; None for any size.
        smallest_side: Pixels that both sides of the input must have at least.
        precision: 'fp32', 'fp16' or 'int8'.
        model: Where the file comes from, for people.
        mask_stride: Pixels of the input along the side of a cell of the masks; None without masks.
    """

    classes: tuple[str, ...]
    channel_order: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: dict[str, Any] | None
    score_threshold: float
    size: tuple[int, int] | None
    smallest_side: int
    precision: str
    model: str
    mask_stride: float | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs of the graph."""
        return OUTPUTS if self.mask_stride is None else (*OUTPUTS, MASKS)

    def as_texts(self) -> dict[str, str]:
        """Returns the metadata as texts by key."""
        values = {'format': FORMAT, 'format_version': FORMAT_VERSION, **vars(self)}
        return {
            key: value if key == 'format' else json.dumps(value, ensure_ascii=False)
            for key, value in values.items()
        }

    @classmethod
    def from_texts(cls, texts: dict[str, str], source: str | os.PathLike) -> Metadata:
        """Reads what :meth:`as_texts` returned.

        Raises:
            ReaderError: If the file is a different one, or of a version that is not known.
        """
        if texts.get('format') != FORMAT:
            raise ReaderError(
                f'{source} does not have the metadata of a detector that `mmdet_dinov2 export` '
                'wrote; export the checkpoint again'
            )
        try:
            version = json.loads(texts['format_version'])
            if version != FORMAT_VERSION:
                raise ReaderError(
                    f'{source} has format version {version}, but this reader knows version '
                    f'{FORMAT_VERSION} only; take the reader of the project version that wrote it'
                )
            names = [name for name in cls.__dataclass_fields__ if name in texts]
            values = {name: json.loads(texts[name]) for name in names}
            for name in ('classes', 'mean', 'std', 'size'):
                values[name] = values[name] if values[name] is None else tuple(values[name])
            found = cls(**values)
            wrong = found._wrong()
        except (KeyError, TypeError, ValueError) as error:
            raise ReaderError(
                f'{source} has damaged metadata ({error!r}); export it again'
            ) from error
        if wrong:
            raise ReaderError(f'{source} has damaged metadata ({wrong}); export it again')
        return found

    def _wrong(self) -> str:
        """Returns the name of a value that cannot be, an empty text if there is none."""
        resize = {'scale': (1, 1), 'keep_ratio': True} if self.resize is None else self.resize
        width, height = resize['scale']
        sound = dict(
            classes=all(isinstance(name, str) for name in self.classes),
            channel_order=self.channel_order in ('rgb', 'bgr'),
            mean=len(self.mean) == 3 and all(math.isfinite(value) for value in self.mean),
            std=len(self.std) == 3 and all(0 < value < math.inf for value in self.std),
            resize=width > 0 and height > 0 and width * height <= _MAX_PIXELS,
            score_threshold=0 <= self.score_threshold <= 1,
            size=self.size is None or (len(self.size) == 2 and min(self.size) >= 1),
            smallest_side=self.smallest_side >= 1,
            mask_stride=self.mask_stride is None or self.mask_stride > 0,
        )
        return next((name for name, is_sound in sound.items() if not is_sound), '')

    def refusal(self, sides: Sequence[int]) -> str:
        """Returns why the graph does not take images of a size; an empty text if it does.

        Args:
            sides: Height and width in pixels.
        """
        sides = tuple(sides)
        if self.size is not None and sides != self.size:
            return 'takes images of {} x {} pixels (height x width) only, '.format(
                *self.size
            ) + 'but got {} x {}; export it without --size to have any size'.format(*sides)
        if min(sides) < self.smallest_side:
            return (
                f'takes images with sides of at least {self.smallest_side} pixels, but got '
                '{} x {} (height x width)'.format(*sides)
            )
        return ''


@dataclass(frozen=True)
class Mask:
    """The pixels of an object.

    Attributes:
        left: First column of the image that ``inside`` covers.
        top: First row of it.
        inside: Whether pixels belong to the object, bool, shape (rows, columns).
        size: Height and width of the image.
    """

    left: int
    top: int
    inside: np.ndarray
    size: tuple[int, int]

    def of_image(self) -> np.ndarray:
        """Returns the mask of the whole image, bool, shape (height, width)."""
        whole = np.zeros(self.size, bool)
        rows, columns = self.inside.shape
        whole[self.top : self.top + rows, self.left : self.left + columns] = self.inside
        return whole

    def run_lengths(self) -> dict[str, list[int]]:
        """Returns COCO's uncompressed run-length encoding, column by column."""
        pixels = np.concatenate(([False], self.of_image().ravel(order='F')))
        changes = np.flatnonzero(pixels[1:] != pixels[:-1])
        counts = np.diff(changes, prepend=0, append=len(pixels) - 1)
        return dict(size=list(self.size), counts=counts.tolist())


@dataclass(frozen=True)
class Detection:
    """An object.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the image.
        score: In 0..1.
        label: Index of the class.
        mask: Its pixels; None if the model finds boxes only.
    """

    box: tuple[float, float, float, float]
    score: float
    label: int
    mask: Mask | None = None


class Reader:
    """A detector in an exported file.

    Args:
        path: ``.onnx``, or the ``.xml`` of OpenVINO with its ``.bin`` beside it.
        threads: Threads that compute; None lets the runtime choose.
        runtime: 'onnxruntime' or 'openvino'; None takes the one for the file.

    Attributes:
        metadata: What the file says about itself.
        classes: Class names, in the order of the labels.

    Raises:
        FileNotFoundError: If the file does not exist.
        ReaderError: If it cannot be used.
    """

    def __init__(
        self, path: str | os.PathLike, threads: int | None = None, runtime: str | None = None
    ) -> None:
        self.path = Path(path)
        self.metadata = read_metadata(self.path)
        self.classes = self.metadata.classes
        self.runtime = runtime or _choose_runtime(self.path)
        start = _start_onnxruntime if self.runtime == 'onnxruntime' else _start_openvino
        self._run = start(self.path, threads, self.metadata.outputs)

    def predict(
        self, image: str | os.PathLike | np.ndarray, score_threshold: float | None = None
    ) -> list[Detection]:
        """Detects objects.

        Args:
            image: A file, or H x W x 3, uint8, BGR as OpenCV reads it.
            score_threshold: Lowest score; None takes that of the file.

        Returns:
            The detections, highest score first.

        Raises:
            FileNotFoundError: If the file does not exist.
            ReaderError: If it is not an image, or of a size that the graph does not take.
        """
        pixels = image if isinstance(image, np.ndarray) else read_image(image)
        resized, scale = resize(pixels, self.metadata.resize)
        boxes, scores, labels, *masks = (
            values[0] for values in self.run(normalize(resized, self.metadata))
        )
        lowest = self.metadata.score_threshold if score_threshold is None else score_threshold
        boxes = boxes / np.asarray(scale * 2, dtype=np.float32)
        found = []
        for index in np.flatnonzero(scores >= lowest).tolist():
            box, mask = tuple(boxes[index].tolist()), None
            if masks:
                cells = tuple(self.metadata.mask_stride / factor for factor in scale)
                mask = interpolate_mask(masks[0][index], cells, box, pixels.shape[:2])
            found.append(Detection(box, float(scores[index]), int(labels[index]), mask))
        return found

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Runs the graph.

        Args:
            images: Normalised images, (B, 3, H, W), fp32.

        Returns:
            Boxes (B, N, 4) in pixels of the input, scores (B, N), labels (B, N), and, if the model
            finds masks, their logits (B, N, rows, columns).

        Raises:
            ReaderError: If the graph does not take that size.
        """
        refusal = self.metadata.refusal(images.shape[2:])
        if refusal:
            raise ReaderError(f'{self.path} {refusal}')
        return self._run(np.ascontiguousarray(images, dtype=np.float32))


# ------------------------------------------------------------------------------ images


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Reads an image file as H x W x 3, uint8, BGR.

    Images are turned by their EXIF orientation. Grey becomes three equal channels, transparency is
    dropped, and values of more than 8 bits are spread so that the lowest one of the image becomes 0
    and the highest 255.

    Raises:
        FileNotFoundError: If the file does not exist.
        ReaderError: If it is not an image.
    """
    import cv2

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'image {path} does not exist; check the path')
    content = np.frombuffer(path.read_bytes(), np.uint8)
    try:
        image = (
            cv2.imdecode(content, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) if len(content) else None
        )
    except cv2.error as error:
        raise ReaderError(f'{path} cannot be decoded ({error.err or error})') from error
    if image is None:
        raise ReaderError(f'{path} is not an image that OpenCV reads')
    return _to_8_bits(image)


def _to_8_bits(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    finite = pixels[np.isfinite(pixels)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    values = (pixels.astype(np.float64) - low) * (255 / (high - low) if high > low else 0)
    return np.nan_to_num(values, nan=0, posinf=0, neginf=0).round().astype(np.uint8)


def resize(
    pixels: np.ndarray, rule: dict[str, Any] | None
) -> tuple[np.ndarray, tuple[float, float]]:
    """Resizes an image as the metadata says.

    Args:
        pixels: H x W x 3, uint8.
        rule: See :class:`Metadata`.

    Returns:
        The image, and the factors of width and height.
    """
    import cv2

    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise ReaderError(
            f'an image must be an array of H x W x 3, uint8, but is {pixels.shape}, {pixels.dtype}'
        )
    height, width = pixels.shape[:2]
    if rule is None:
        return pixels, (1.0, 1.0)
    new_width, new_height = rule['scale']
    if rule['keep_ratio']:
        longer, shorter = max(rule['scale']), min(rule['scale'])
        factor = min(longer / max(height, width), shorter / min(height, width))
        new_width, new_height = int(width * factor + 0.5), int(height * factor + 0.5)
    if not new_width or not new_height:
        raise ReaderError(f'an image of {height} x {width} pixels is too narrow to be resized')
    resized = cv2.resize(pixels, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    return resized, (new_width / width, new_height / height)


def normalize(pixels: np.ndarray, metadata: Metadata) -> np.ndarray:
    """Turns an image, H x W x 3, uint8, BGR, into the input of the graph, (1, 3, H, W), fp32."""
    channels = pixels if metadata.channel_order == 'bgr' else pixels[..., ::-1]
    mean, std = (
        np.asarray(n, dtype=np.float32)[:, None, None] for n in (metadata.mean, metadata.std)
    )
    return ((channels.transpose(2, 0, 1).astype(np.float32) - mean) / std)[None]


def interpolate_mask(
    logits: np.ndarray,
    cell: tuple[float, float],
    box: tuple[float, float, float, float],
    size: tuple[int, int],
) -> Mask:
    """Returns the mask of an object, in the pixels that its box touches.

    Logits are interpolated bilinearly between the centres of the cells and are constant beyond the
    outer ones. A pixel belongs to the object if the logit at its centre is positive.

    Args:
        logits: Shape (rows, columns).
        cell: Width and height of a cell in pixels of the image.
        box: x1, y1, x2, y2 in pixels of the image.
        size: Height and width of the image.
    """
    starts, weights = [], []
    for axis, (cells, side) in enumerate(zip(logits.shape[::-1], size[::-1])):
        first = min(max(int(np.floor(box[axis])), 0), side - 1)
        last = min(max(int(np.ceil(box[axis + 2])), first + 1), side)
        place = ((np.arange(first, last) + 0.5) / cell[axis] - 0.5).clip(0, cells - 1)
        distance = np.abs(place[:, None] - np.arange(cells))
        starts.append(first)
        weights.append(np.maximum(1 - distance, 0).astype(np.float32))
    values = weights[1] @ logits.astype(np.float32) @ weights[0].T
    return Mask(*starts, values > 0, (int(size[0]), int(size[1])))


# -------------------------------------------------------------------------------- files


def read_metadata(path: str | os.PathLike) -> Metadata:
    """Reads what an exported file says about itself; nothing of it runs.

    Raises:
        FileNotFoundError: If the file does not exist.
        ReaderError: If it is a different file, or refers to files outside of its folder.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist; check the path')
    if path.suffix == '.xml':
        return Metadata.from_texts(_openvino_texts(path), path)
    if path.suffix != '.onnx':
        raise ReaderError(f'{path} must end in one of {", ".join(SUFFIXES)}')
    texts: dict[str, str] = {}
    try:
        with (
            open(path, 'rb') as file,
            contextlib.closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as content,
            memoryview(content) as view,
        ):
            locations = list(_walk(view, _MODEL, texts))
    except (IndexError, ValueError) as error:
        raise ReaderError(f'{path} is not a complete ONNX file; get it again') from error
    for location in locations:
        _check_location(location, path)
    return Metadata.from_texts(texts, path)


def _check_location(location: str, path: Path) -> None:
    """Refuses files with weights that lie outside of the folder of the model."""
    for kind in (PurePosixPath, PureWindowsPath):
        parts = kind(location)
        if parts.is_absolute() or parts.drive or '..' in parts.parts:
            raise ReaderError(
                f'{path} refers to the file {location!r} outside of its folder, so it is refused'
            )
    target = (path.parent / location).resolve()
    if path.parent.resolve() not in target.parents:
        raise ReaderError(f'{path} refers to {location!r}, a link out of its folder; it is refused')


# Which fields of ONNX's messages lead to tensors, by number; see onnx.proto.
_TENSOR: dict[int, Any] = {}
_SPARSE: dict[int, Any] = {1: _TENSOR, 2: _TENSOR}
_GRAPH: dict[int, Any] = {5: _TENSOR, 15: _SPARSE}
_ATTRIBUTE = {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE}
_NODE = {5: _ATTRIBUTE}
_GRAPH[1] = _NODE
_FUNCTION = {7: _NODE, 11: _ATTRIBUTE}
_TRAINING = {1: _GRAPH, 2: _GRAPH}
_MODEL = {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION}
_METADATA, _EXTERNAL_DATA = 14, 13


def _walk(view: memoryview, message: dict[int, Any], texts: dict[str, str]) -> Iterator[str]:
    """Yields the locations of external data; puts the metadata of a model into ``texts``."""
    for number, field in _fields(view):
        if number in message:
            yield from _walk(field, message[number], texts)
        elif message is _MODEL and number == _METADATA:
            key, value = _entry(field)
            texts[key] = value
        elif message is _TENSOR and number == _EXTERNAL_DATA:
            key, value = _entry(field)
            if key == 'location':
                yield value


def _entry(view: memoryview) -> tuple[str, str]:
    pair = {number: bytes(field).decode() for number, field in _fields(view)}
    return pair.get(1, ''), pair.get(2, '')


def _fields(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yields number and content of the fields of a protobuf message that have a length."""
    position = 0
    while position < len(view):
        tag, position = _varint(view, position)
        if tag >= 2**32:  # of which others read the last 32 bits
            raise ValueError('not a protobuf message')
        kind = tag & 7
        if kind == 0:
            _, position = _varint(view, position)
            continue
        length = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            length, position = _varint(view, position)
        if length is None or position + length > len(view):
            raise ValueError('not a protobuf message')
        if kind == 2:
            with view[position : position + length] as field:
                yield tag >> 3, field
        position += length


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError('not a protobuf message')


def _openvino_texts(path: Path) -> dict[str, str]:
    from xml.etree import ElementTree

    if path.with_suffix('.bin').exists():
        _check_location(f'{path.stem}.bin', path)
    content = path.read_bytes()
    if b'<!' in content:
        # OpenVINO writes no entities, and a few lines of them can stand for gigabytes.
        raise ReaderError(f'{path} has declarations that OpenVINO does not write; it is refused')
    try:
        found = ElementTree.fromstring(content).find(f'./rt_info/{_OPENVINO_KEY}')
    except ElementTree.ParseError as error:
        raise ReaderError(f'{path} is not a complete OpenVINO file; get it again') from error
    return {} if found is None else {entry.tag: entry.get('value', '') for entry in found}


# ----------------------------------------------------------------------------- runtimes


def _choose_runtime(path: Path) -> str:
    wanted = ('openvino',) if path.suffix == '.xml' else ('onnxruntime', 'openvino')
    for name in wanted:
        if importlib.util.find_spec(name):
            return name
    raise ReaderError(f'{path} needs the package {" or ".join(wanted)}: pip install {wanted[0]}')


def _start_onnxruntime(path: Path, threads: int | None, outputs: tuple[str, ...]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    wanted = ('CUDAExecutionProvider', 'CPUExecutionProvider')
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # the runtime has many types of errors
        raise ReaderError(f'{path} cannot be loaded ({_first_line(error)})') from error

    def run(images: np.ndarray) -> list[np.ndarray]:
        try:
            return session.run(list(outputs), {INPUT: images})
        except Exception as error:
            raise ReaderError(f'{path} cannot be run ({_first_line(error)})') from error

    return run


def _start_openvino(path: Path, threads: int | None, outputs: tuple[str, ...]) -> Any:
    import openvino

    weights = path.with_suffix('.bin')
    if path.suffix == '.xml' and not weights.is_file():
        raise ReaderError(f'{path} needs its weights beside it, but {weights} does not exist')
    # Without the hint, some processors compute in lower precision.
    config: dict[str, Any] = {'INFERENCE_PRECISION_HINT': 'f32', 'PERFORMANCE_HINT': 'LATENCY'}
    if threads:
        config['INFERENCE_NUM_THREADS'] = threads
    try:
        compiled = openvino.Core().compile_model(str(path), 'CPU', config)
    except Exception as error:
        raise ReaderError(f'{path} cannot be loaded ({_first_line(error)})') from error

    def run(images: np.ndarray) -> list[np.ndarray]:
        try:
            results = compiled({INPUT: images})
        except Exception as error:
            raise ReaderError(f'{path} cannot be run ({_first_line(error)})') from error
        return [results[name] for name in outputs]

    return run


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# ------------------------------------------------------------------------- command line


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the detections in images as JSON, one line for each image."""
    parser = argparse.ArgumentParser(description='Detect objects with an exported model')
    parser.add_argument('model', help='model.onnx or model.xml')
    parser.add_argument('images', nargs='+', help='image files')
    parser.add_argument('--score-threshold', type=float, help='by default that of the file')
    parser.add_argument('--threads', type=int, help='threads that compute')
    args = parser.parse_args(arguments)
    failed = False
    try:
        reader = Reader(args.model, args.threads)
    except (OSError, ReaderError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    for image in args.images:
        try:
            found = reader.predict(image, args.score_threshold)
        except (OSError, ReaderError) as error:
            print(f'error: {error}', file=sys.stderr)
            failed = True
            continue
        detections = [
            dict(
                label=reader.classes[d.label],
                score=round(d.score, 4),
                box=np.round(d.box, 2).tolist(),
                **({} if d.mask is None else dict(mask=d.mask.run_lengths())),
            )
            for d in found
        ]
        print(json.dumps(dict(image=image, detections=detections), ensure_ascii=False))
    return int(failed)


if __name__ == '__main__':
    sys.exit(main())
