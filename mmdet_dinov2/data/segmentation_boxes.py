"""Boxes around the segmentations of COCO annotation files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pycocotools import mask as coco_mask

# A run length in COCO's text form: groups of 5 bits, and no last group that says "more follows",
# after which the C code would read beyond its end.
_RUNS = re.compile('(?:[P-o]{0,6}[0-O])+')
# A larger number is a mistake, and arithmetic with it may overflow.
LARGEST = 1e12
_LARGEST_SIDE = 1_000_000
_LARGEST_RUN = 2**32


def is_run_text(counts: str) -> bool:
    """Returns whether a text is run lengths in COCO's form, complete to the last character."""
    return _RUNS.fullmatch(counts) is not None


def box_around(segmentation: Any) -> list[float] | None:
    """Returns the box around a segmentation.

    Args:
        segmentation: Polygons as lists of ``x, y, x, y, ...`` in pixels, one polygon, or a mask in
            COCO's run-length encoding with ``size`` and ``counts``, compressed or not.

    Returns:
        ``x, y, width, height`` in pixels; ``None`` if it is none of these, or empty.
    """
    if isinstance(segmentation, Mapping):
        return _box_of_mask(segmentation)
    if not isinstance(segmentation, list) or not segmentation:
        return None
    nested = all(isinstance(part, list) for part in segmentation)
    parts = segmentation if nested else [segmentation]
    if not all(len(part) % 2 == 0 and all(is_number(value) for value in part) for part in parts):
        return None
    xs = [x for part in parts for x in part[0::2]]
    ys = [y for part in parts for y in part[1::2]]
    if not xs:
        return None
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def is_number(value: Any) -> bool:
    """Returns whether a value of a JSON file is a number that a coordinate can be."""
    # Unlike math.isfinite, a comparison takes whole numbers of any size.
    return type(value) in (int, float) and -LARGEST < value < LARGEST


def _box_of_mask(mask: Mapping[str, Any]) -> list[float] | None:
    size, counts = mask.get('size'), mask.get('counts')
    if not isinstance(size, list) or len(size) != 2:
        return None
    if not all(type(side) is int and 0 < side <= _LARGEST_SIDE for side in size):
        return None
    if isinstance(counts, list):
        if not all(type(run) is int and 0 <= run < _LARGEST_RUN for run in counts):
            return None
        encoded = coco_mask.frPyObjects(dict(size=size, counts=counts), *size)
    elif isinstance(counts, str) and is_run_text(counts):
        encoded = dict(size=size, counts=counts.encode())
    else:
        return None
    x, y, width, height = map(float, coco_mask.toBbox(encoded))
    return [x, y, width, height] if width and height else None
