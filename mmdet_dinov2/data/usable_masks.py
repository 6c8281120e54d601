"""Segmentations of COCO annotation files as masks that can be loaded without harm.

mmdet takes what a file has: a box without a segmentation ends the training, and one that mmdet does
not understand costs the box too. `pycocotools` trusts the run lengths that it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .segmentation_boxes import is_run_text

# Why there is no mask.
MISSING = 'without a mask'
FEW_POINTS = 'with polygons of fewer than 3 points'
OTHER_SIZE = 'with run lengths of a different size than the image'
BROKEN = 'whose segmentation is neither polygons nor run lengths'
FAR_OUTSIDE = 'with polygons that reach further outside of the image than it is large'
UNUSABLE = (MISSING, FEW_POINTS, OTHER_SIZE, BROKEN, FAR_OUTSIDE)

# A mask without any pixel, for a box whose mask is not known: a polygon without an area.
NO_MASK = ((0.0, 0.0, 0.0, 0.0, 0.0, 0.0),)
# Of a polygon: those of three points.
MIN_NUMBERS = 6


def usable_mask(segmentation: Any, width: float, height: float) -> tuple[Any, str]:
    """Returns the mask of a segmentation, in a form that mmdet and pycocotools take.

    Args:
        segmentation: What the file has: polygons as lists of ``x, y, x, y, ...`` in pixels, one
            such polygon, its points as ``[x, y]``, or run lengths with ``size`` and ``counts``,
            compressed or not.
        width: Width of the image in pixels.
        height: Its height.

    Returns:
        Polygons or run lengths, and an empty text; or ``None`` and why there is no mask. Of several
        polygons, those that can be used are the mask.
    """
    if not segmentation:
        return None, MISSING
    if isinstance(segmentation, Mapping):
        return _run_lengths(segmentation, width, height)
    if not isinstance(segmentation, list):
        return None, BROKEN
    if not all(isinstance(part, list) for part in segmentation):
        segmentation = [segmentation]
    elif are_points(segmentation):
        segmentation = [[value for point in segmentation for value in point]]
    return _polygons(segmentation, width, height)


def are_points(parts: list[Any]) -> bool:
    """Returns whether parts of a segmentation are the points of one polygon, ``[x, y]`` each."""
    return len(parts) > 2 and all(isinstance(part, list) and len(part) == 2 for part in parts)


def loadable_mask(segmentation: Any, width: float, height: float) -> Any:
    """Returns the mask of a segmentation, or one without any pixel if it has none."""
    mask, _ = usable_mask(segmentation, width, height)
    return [list(part) for part in NO_MASK] if mask is None else mask


def _polygons(parts: list[list[Any]], width: float, height: float) -> tuple[Any, str]:
    usable, problem = [], FEW_POINTS
    for part in parts:
        # Of all numbers, only NaN differs from itself.
        if len(part) % 2 or not all(type(v) in (int, float) and v == v for v in part):
            problem = BROKEN
        elif len(part) >= MIN_NUMBERS:
            if is_far_outside(part, width, height):
                return None, FAR_OUTSIDE
            usable.append(part)
    return (usable, '') if usable else (None, problem)


def is_far_outside(polygon: list[float], width: float, height: float) -> bool:
    """Returns whether a polygon reaches further outside of its image than that is large.

    Such coordinates are a mistake, and drawing them would take memory without limit.
    """
    xs, ys = polygon[0::2], polygon[1::2]
    return not (
        -width <= min(xs) and max(xs) <= 2 * width and -height <= min(ys) and max(ys) <= 2 * height
    )


def _run_lengths(mask: Mapping[str, Any], width: float, height: float) -> tuple[Any, str]:
    size, counts = mask.get('size'), mask.get('counts')
    if not isinstance(size, list) or len(size) != 2:
        return None, BROKEN
    if size != [height, width]:
        return None, OTHER_SIZE
    if isinstance(counts, list) and all(type(run) is int and run >= 0 for run in counts):
        total = sum(counts)
    elif isinstance(counts, str) and is_run_text(counts):
        runs = _decode_runs(counts)
        total = int(runs.sum()) if (runs >= 0).all() else -1
    else:
        return None, BROKEN
    if total != size[0] * size[1]:
        return None, BROKEN
    return dict(size=[int(side) for side in size], counts=counts), ''


def _decode_runs(counts: str) -> np.ndarray:
    """Returns the lengths of the runs of COCO's text form, (R,) int64.

    A number is one or more characters of 5 bits, the lowest first; each but the last has a sixth
    bit, and the fifth bit of the last one is the sign. From the fourth number on, they are
    differences from the number two places before.
    """
    codes = np.frombuffer(counts.encode(), dtype=np.uint8).astype(np.int64) - 48
    last = (codes & 0x20) == 0
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(starts, np.diff([*starts, len(codes)]))
    runs = np.add.reduceat((codes & 0x1F) << (5 * place), starts)
    negative = (codes[last] & 0x10) > 0
    runs[negative] -= 1 << (5 * (place[last][negative] + 1))
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
