"""The part of a large image that is worth a look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..instance_masks import decode_mask, encode_masks

# Longest side of a part in pixels; images of up to twice of it are shown as a whole.
CROP_SIDE = 640
Corners = tuple[int, int, int, int]


def crop_around(boxes: Sequence[Sequence[float]], width: int, height: int) -> Corners | None:
    """Chooses the part of an image with the centres of the most boxes.

    Args:
        boxes: What to show: x, y, width, height in pixels each.
        width: Width of the image in pixels.
        height: Height of the image in pixels.

    Returns:
        Corners x1, y1, x2, y2 in pixels; None if the image is small enough to be shown as a whole,
        or if there are no boxes.
    """
    if max(width, height) <= 2 * CROP_SIDE or not len(boxes):
        return None
    corners = np.asarray(boxes, dtype=float)
    centres = corners[:, :2] + corners[:, 2:] / 2
    sides = np.minimum((width, height), CROP_SIDE)
    starts = np.clip(centres - sides / 2, 0, (width, height) - sides).astype(int)
    inside = (centres >= starts[:, None]) & (centres < starts[:, None] + sides)
    x, y = starts[int(inside.all(-1).sum(1).argmax())].tolist()
    return x, y, x + int(sides[0]), y + int(sides[1])


def shifted(entry: Mapping[str, Any], corners: Corners) -> dict[str, Any] | None:
    """Returns an annotation or prediction of COCO in pixels of a part; None if it lies outside.

    Its ``mask``, run lengths of the size of the image, becomes that of the part.
    """
    x, y, width, height = entry['bbox']
    x1, y1, x2, y2 = corners
    if x >= x2 or y >= y2 or x + width <= x1 or y + height <= y1:
        return None
    moved = {**entry, 'bbox': [x - x1, y - y1, width, height]}
    if 'mask' in entry:
        (moved['mask'],) = encode_masks([decode_mask(entry['mask'])[y1:y2, x1:x2]])
    return moved
