"""Detection in tiles of large images, and in the reduced image, merged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision import ops

from ..errors import InputError
from ..instance_masks import RunLengths, decode_mask, run_lengths
from ..large_image import MAX_PER_IMG, LargeImage, detach
from ..layers.tiles import Box, tile_boxes
from .mask_prediction import encode_window

Data = Mapping[str, Sequence[Any]]
Predict = Callable[[Data], Sequence[DetDataSample]]

_MAX_SCALE = 16
# How near to the border of its tile a detection ends that the border cuts, as a share of the tile.
_BORDER = 0.01
# A cut detection loses against a whole one that covers so much of it, with so much of its score.
_COVERED = 0.5
_SCORE_RATIO = 0.5
# Of an image, only so many times the wanted number of detections are merged, the best ones.
_CANDIDATES = 10
# Pairs of a cut and a whole detection that are compared at once.
_MAX_PAIRS = 2**20


@dataclass(frozen=True)
class Tiling:
    """How large images are divided.

    Attributes:
        size: Largest side of a tile in pixels of the image. Images that fit in one tile are
            predicted as without tiles.
        overlap: Share of ``size`` by which neighbours overlap, 0 to 0.9. Objects up to this size
            are seen whole by some tile.
        whole: Whether to predict on the image as without tiles too, for larger objects.
        batch: Number of tiles that the model takes at once.
        scale: By how much tiles are enlarged before the model sees them, above 0 and up to 16.
        max_per_img: Largest number of detections in an image of several tiles.
        iou_threshold: Detections of a class that overlap more are one.
    """

    size: int
    overlap: float = 0.2
    whole: bool = True
    batch: int = 8
    scale: float = 1.0
    max_per_img: int = MAX_PER_IMG
    iou_threshold: float = 0.5

    @classmethod
    def of(cls, settings: Mapping[str, Any], patch_size: int = 1) -> Tiling:
        """Reads the setting ``tile`` of a detector.

        Args:
            settings: Attributes by name.
            patch_size: Side of the patches of the backbone in pixels.

        Raises:
            InputError: If a key is unknown, or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise InputError(f'tile has the unknown keys {unknown}; it takes {", ".join(known)}')
        if 'size' not in settings:
            raise InputError('tile needs a size, the side of a tile in pixels: tile=dict(size=640)')
        tiling = cls(**settings)
        for name, minimum in (('size', 1), ('batch', 1), ('max_per_img', 1)):
            value = getattr(tiling, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
                raise InputError(
                    f'tile.{name} must be a whole number of at least {minimum}, but is {value!r}'
                )
        for name, highest in (('overlap', 0.9), ('iou_threshold', 1.0)):
            value = getattr(tiling, name)
            if not (_is_number(value) and 0 <= value <= highest):
                raise InputError(
                    f'tile.{name} must be a number from 0 to {highest}, but is {value!r}'
                )
        if not (_is_number(tiling.scale) and 0 < tiling.scale <= _MAX_SCALE):
            raise InputError(
                f'tile.scale must be a number above 0 and up to {_MAX_SCALE}, but is '
                f'{tiling.scale!r}'
            )
        if not isinstance(tiling.whole, bool):
            raise InputError(f'tile.whole must be True or False, but is {tiling.whole!r}')
        if tiling.size * tiling.scale < patch_size:
            scaled = '' if tiling.scale == 1 else f' at a scale of {tiling.scale:g}'
            raise InputError(
                f'a tile of {tiling.size} pixels{scaled} is smaller than a patch of the backbone, '
                f'{patch_size} pixels; set a larger tile.size'
            )
        return tiling

    @property
    def shared(self) -> int:
        """Number of pixels by which neighbours overlap at least."""
        return int(self.size * self.overlap)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def without_large_images(data: Any) -> Any:
    """Returns a batch without the large images that its data samples may carry."""
    if not isinstance(data, Mapping) or not data.get('data_samples'):
        return data
    samples = [detach(sample)[0] for sample in data['data_samples']]
    return {**data, 'data_samples': samples}


def predict_in_tiles(predict: Predict, data: Data, tiling: Tiling) -> list[DetDataSample]:
    """Detects objects in images, in tiles of those that are larger than a tile.

    Args:
        predict: Predicts on a batch of images of any sizes.
        data: ``inputs`` and ``data_samples`` of the images as the test pipeline makes them, with
            their large images.
        tiling: How images are divided.

    Returns:
        The data samples, with detections in pixels of the images.

    Raises:
        InputError: If a sample comes without its large image.
    """
    detached = [detach(sample) for sample in data['data_samples']]
    samples, images = [sample for sample, _ in detached], [image for _, image in detached]
    if any(image is None for image in images):
        raise InputError(
            'the detector has the setting tile, but the images come without their tiles; use a '
            'runner or mmdet_dinov2.load, which make the test pipeline fit'
        )
    tiles = [tile_boxes(*image.shape, tiling.size, tiling.overlap) for image in images]
    as_a_whole = [tiling.whole or len(boxes) == 1 for boxes in tiles]
    chosen = [index for index, whole in enumerate(as_a_whole) if whole]
    if chosen:
        inputs = [data['inputs'][index] for index in chosen]
        found = predict(dict(inputs=inputs, data_samples=[samples[index] for index in chosen]))
        for index, sample in zip(chosen, found, strict=True):
            samples[index] = sample
    for index, (image, boxes) in enumerate(zip(images, tiles, strict=True)):
        if len(boxes) > 1:
            whole = samples[index].pred_instances if as_a_whole[index] else None
            parts = _in_tiles(predict, image, boxes, tiling)
            if whole is not None and 'masks' in whole:
                whole.corners = torch.zeros_like(whole.bboxes[:, :2])
            found = merge(parts, boxes, image.shape, tiling, whole)
            if 'masks' in found:
                found.masks = _moved(found.masks, found.pop('corners'), image.shape)
            samples[index].pred_instances = found
    return samples


def _in_tiles(
    predict: Predict, image: LargeImage, boxes: Sequence[Box], tiling: Tiling
) -> Iterator[InstanceData]:
    """Yields the detections of each tile, in pixels of the image."""
    for start in range(0, len(boxes), tiling.batch):
        part = boxes[start : start + tiling.batch]
        pixels = [_read(image, box, tiling.scale) for box in part]
        samples = [_sample(box, tensor) for box, tensor in zip(part, pixels, strict=True)]
        for box, sample in zip(
            part, predict(dict(inputs=pixels, data_samples=samples)), strict=True
        ):
            instances = sample.pred_instances
            corner = instances.bboxes.new_tensor(box[:2])
            instances.bboxes += corner.repeat(2)
            if 'masks' in instances:
                instances.corners = corner.expand(len(instances), -1)
            yield instances


def _moved(
    masks: Sequence[RunLengths], corners: Tensor, shape: tuple[int, int]
) -> list[RunLengths]:
    """Returns masks of tiles as masks of the image; ``corners`` (x, y) are those of the tiles."""
    moved = []
    for mask, (x, y) in zip(run_lengths(masks), corners.long().tolist(), strict=True):
        if list(mask['size']) != list(shape):
            left, top, width, height = map(int, coco_mask.toBbox(mask))
            window = decode_mask(mask)[top : top + height, left : left + width]
            mask = encode_window(window, y + top, x + left, shape)
        moved.append(mask)
    return moved


def _read(image: LargeImage, box: Box, scale: float) -> Tensor:
    """Returns a tile, shape (3, H, W), uint8."""
    pixels = image.read(*box)
    if scale != 1:
        height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _sample(box: Box, pixels: Tensor) -> DetDataSample:
    """Returns the data sample of a tile."""
    x1, y1, x2, y2 = box
    height, width = pixels.shape[-2:]
    return DetDataSample(
        metainfo=dict(
            img_shape=(height, width),
            ori_shape=(y2 - y1, x2 - x1),
            scale_factor=(width / (x2 - x1), height / (y2 - y1)),
        )
    )


def merge(
    parts: Iterable[InstanceData],
    tiles: Sequence[Box],
    shape: tuple[int, int],
    tiling: Tiling,
    whole: InstanceData | None = None,
) -> InstanceData:
    """Merges the detections of all tiles of an image.

    A detection that an inner border of its tile cuts loses against a whole one of its class that
    covers it. What is left goes through one NMS for each class. Of the image as a whole, only
    detections count that are too large for the overlap of tiles: some tile sees all others as a
    whole and at a higher resolution.

    Args:
        parts: Detections of each tile in pixels of the image: ``bboxes``, ``scores`` and
            ``labels``. Only the best of them stay in memory.
        tiles: Corners x1, y1, x2, y2 of each tile in pixels.
        shape: Height and width of the image.
        tiling: How it was divided.
        whole: Detections in the image as a whole.

    Returns:
        The detections that are kept, the highest score first. They depend on the detections and
        their order only.
    """
    limit = _CANDIDATES * tiling.max_per_img
    waiting: list[InstanceData] = []
    count = 0
    for part, box in zip(parts, tiles, strict=True):
        part.is_cut = _is_cut(part.bboxes, box, shape)
        waiting.append(part)
        count += len(part)
        if count > 2 * limit:
            waiting, count = [_best(waiting, limit)], limit
    if whole is not None:
        sides = whole.bboxes[:, 2:] - whole.bboxes[:, :2]
        large = whole[sides.amax(1) > tiling.shared]
        large.is_cut = torch.zeros_like(large.labels, dtype=torch.bool)
        waiting.append(large)
    found = _best(waiting, limit)
    is_cut = found.pop('is_cut')
    found = found[~_loses(found, is_cut)]
    # In double precision: NMS of many classes at once moves the boxes of each far away.
    kept = ops.batched_nms(
        found.bboxes.double(), found.scores.double(), found.labels, tiling.iou_threshold
    )
    return found[kept[: tiling.max_per_img]]


def _best(parts: Sequence[InstanceData], count: int) -> InstanceData:
    """Returns the detections with the highest scores, the highest first."""
    found = InstanceData.cat(list(parts))
    return found[found.scores.sort(descending=True, stable=True).indices[:count]]


def _is_cut(boxes: Tensor, tile: Box, shape: tuple[int, int]) -> Tensor:
    """Returns whether each detection of a tile ends at a border inside of the image, (N,)."""
    x1, y1, x2, y2 = tile
    near = _BORDER * max(x2 - x1, y2 - y1)
    height, width = shape
    left, top, right, bottom = boxes.unbind(1)
    return (
        ((left < x1 + near) & (x1 > 0))
        | ((top < y1 + near) & (y1 > 0))
        | ((right > x2 - near) & (x2 < width))
        | ((bottom > y2 - near) & (y2 < height))
    )


def _loses(found: InstanceData, is_cut: Tensor) -> Tensor:
    """Returns whether each detection is cut and covered by a whole one of its class, (N,)."""
    loses = torch.zeros_like(is_cut)
    whole = found[~is_cut]
    cut = is_cut.nonzero()[:, 0]
    for rows in cut.split(max(1, _MAX_PAIRS // max(1, len(whole)))):
        part = found[rows]
        shared = (
            torch.minimum(part.bboxes[:, None, 2:], whole.bboxes[:, 2:])
            - torch.maximum(part.bboxes[:, None, :2], whole.bboxes[:, :2])
        ).clamp(min=0)
        area = (part.bboxes[:, 2:] - part.bboxes[:, :2]).prod(1)
        covers = shared.prod(-1) >= _COVERED * area[:, None]
        covers &= part.labels[:, None] == whole.labels
        covers &= whole.scores >= _SCORE_RATIO * part.scores[:, None]
        loses[rows] = covers.any(1)
    return loses
