"""The largest image that a training pipeline makes, as far as its transforms say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmcv.transforms import Compose

# Attributes of transforms that set the size of an image, as mmcv and mmdet name them: of resizing
# transforms, which fit the image into one of these boxes, and of those that crop it.
_BOXES = ('scale', 'scales')
_CROPS = ('crop_size',)


def largest_image(transforms: Iterable[Any]) -> tuple[int, int] | None:
    """Returns the largest size that images leave a pipeline with.

    Args:
        transforms: Transforms in their order; some hold several, of which they choose one.

    Returns:
        Height and width in pixels; ``None`` if no transform says.
    """
    size = None
    for transform in transforms:
        if isinstance(transform, (list, tuple)):
            size = largest_image(transform) or size
            continue
        inner = getattr(transform, 'transforms', None)
        if inner:
            branches = [step for step in inner if isinstance(step, (list, tuple, Compose))]
            sizes = [largest_image(getattr(b, 'transforms', b)) for b in branches or [list(inner)]]
            size = max(filter(None, sizes), key=_area, default=size)
            continue
        boxes = [box for name in _BOXES for box in _pairs(getattr(transform, name, None))]
        if boxes:
            factor = max(getattr(transform, 'ratio_range', None) or (1.0,))
            width, height = max(boxes, key=_area)
            size = (round(height * factor), round(width * factor))
        crops = [crop for name in _CROPS for crop in _pairs(getattr(transform, name, None))]
        if crops and getattr(transform, 'crop_type', 'absolute').startswith('absolute'):
            largest = max(crops, key=_area)
            size = min(size, largest, key=_area) if size else largest
    return size


def _pairs(value: Any) -> list[tuple[int, int]]:
    """Returns the sizes that a setting names: one pair of whole numbers or several."""
    if not isinstance(value, (list, tuple)) or not value:
        return []
    if all(isinstance(number, int) for number in value):
        return [tuple(value)] if len(value) == 2 else []
    return [pair for entry in value for pair in _pairs(entry)]


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
