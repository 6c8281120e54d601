"""Which masks of a COCO file are sound, and what is wrong with the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import cv2
import msgspec
import numpy as np

from .annotation_columns import AnnotationColumns
from .segmentation_boxes import box_around
from .usable_masks import FAR_OUTSIDE, MIN_NUMBERS, MISSING, are_points, usable_mask

# What is odd about masks that can be used.
BESIDE_BOX = 'far from their box'
OUTSIDE_IMAGE = 'with polygons that reach outside of the image'
DROPPED_PARTS = 'with several polygons, some of fewer than 3 points, which are left out'
HOLES = 'with polygons inside of polygons'

# Annotations whose segmentations are decoded together.
_BLOCK = 4096
_MAX_EXAMPLES = 3
# Pixels that a polygon may reach outside of its image by rounding or by how a tool counts pixels.
_MARGIN = 2.0
# Lowest IoU of the box around a mask with the box of the annotation.
_MIN_OVERLAP = 0.5
# Share of its bounds that a polygon covers if it is nothing but these.
_RECTANGLE = 0.999
_POLYGONS = msgspec.json.Decoder(list[list[list[float]]])


@dataclass
class MaskCounts:
    """What the masks of a file are.

    Attributes:
        total: Number of objects that were looked at.
        usable: Number of them with a mask.
        images_without: Number of images with objects, none of which has a mask.
        rectangles: Number of masks that are one polygon, which is the rectangle around it.
        run_lengths: Number of masks in run-length encoding.
        problems: Numbers of objects by what is wrong; those without a usable mask first.
        examples: Positions of up to three annotations for each.
    """

    total: int = 0
    usable: int = 0
    images_without: int = 0
    rectangles: int = 0
    run_lengths: int = 0
    problems: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[int]] = field(default_factory=dict)

    def add(self, problem: str, annotation: int) -> None:
        """Counts a problem of an annotation."""
        self.problems[problem] = self.problems.get(problem, 0) + 1
        examples = self.examples.setdefault(problem, [])
        if len(examples) < _MAX_EXAMPLES:
            examples.append(annotation)


def count_masks(columns: AnnotationColumns, rows: np.ndarray) -> MaskCounts:
    """Looks at the masks of annotations.

    Args:
        columns: The annotation file, with segmentations.
        rows: Positions of the annotations, of images that the file lists, (M,).
    """
    counts = MaskCounts(total=len(rows))
    usable = np.zeros(len(rows), dtype=bool)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        usable[start : start + _BLOCK] = _count_block(columns, block, counts)
    counts.usable = int(usable.sum())
    images = columns.image_index[rows]
    counts.images_without = len(np.unique(images)) - len(np.unique(images[usable]))
    return counts


def _count_block(columns: AnnotationColumns, rows: np.ndarray, counts: MaskCounts) -> np.ndarray:
    """Adds the masks of some annotations; returns which of them can be used."""
    texts = [columns.segmentations.raw(row) for row in rows.tolist()]
    given = np.array([bool(text) for text in texts])
    for row in rows[~given].tolist():
        counts.add(MISSING, row)
    texts = [text for text in texts if text]
    usable = given.copy()
    try:
        masks: list[Any] = _POLYGONS.decode(b'[' + b','.join(texts) + b']')
        decoded = True
    except (msgspec.DecodeError, UnicodeDecodeError):
        masks = [json.loads(text) for text in texts]  # run lengths, or something else
        decoded = False
    kept: list[tuple[int, int, list[list[float]]]] = []
    for place, row, mask in zip(
        np.flatnonzero(given).tolist(), rows[given].tolist(), masks, strict=True
    ):
        if decoded and all(len(part) >= MIN_NUMBERS and not len(part) % 2 for part in mask):
            kept.append((place, row, mask))
            continue
        found, problem = usable_mask(mask, *columns.size(int(columns.image_index[row])))
        if found is None:
            counts.add(problem, row)
            usable[place] = False
        elif isinstance(found, list):
            if len(found) < len(mask) and isinstance(mask[0], list) and not are_points(mask):
                counts.add(DROPPED_PARTS, row)
            kept.append((place, row, found))
        else:
            counts.run_lengths += 1
            _compare_with_box(columns, row, box_around(found), counts)
    if kept:
        places, *polygons = zip(*kept, strict=True)
        usable[list(places)] = _count_polygons(columns, *polygons, counts)
    return usable


def _compare_with_box(
    columns: AnnotationColumns, row: int, around: Sequence[float] | None, counts: MaskCounts
) -> None:
    if around is None or _overlap(np.array([around]), columns.boxes[[row]])[0] < _MIN_OVERLAP:
        counts.add(BESIDE_BOX, row)


def _count_polygons(
    columns: AnnotationColumns,
    rows: Sequence[int],
    masks: Sequence[list[list[float]]],
    counts: MaskCounts,
) -> np.ndarray:
    """Adds what is odd about masks of polygons, by operations on all of their points.

    Returns:
        Which of them can be used, (M,) bool.
    """
    rows = np.array(rows)
    num_parts = np.array([len(parts) for parts in masks])
    lengths = np.array([len(part) // 2 for parts in masks for part in parts])
    flat = chain.from_iterable(part for parts in masks for part in parts)
    points = np.fromiter(flat, float, 2 * lengths.sum()).reshape(-1, 2)
    first_point = np.cumsum(lengths) - lengths
    first_part = np.cumsum(num_parts) - num_parts
    low = np.minimum.reduceat(np.minimum.reduceat(points, first_point), first_part)
    high = np.maximum.reduceat(np.maximum.reduceat(points, first_point), first_part)
    images = columns.image_index[rows]
    sizes = np.stack([columns.widths[images], columns.heights[images]], axis=1)
    usable = (low >= -sizes).all(axis=1) & (high <= 2 * sizes).all(axis=1)
    outside = (low < -_MARGIN).any(axis=1) | (high > sizes + _MARGIN).any(axis=1)
    around = np.concatenate([low, high - low], axis=1)
    beside = _overlap(around, columns.boxes[rows]) < _MIN_OVERLAP
    following = np.arange(1, len(points) + 1)
    following[first_point + lengths - 1] = first_point
    # Twice the area that each side of a polygon encloses with the first corner of the bounds.
    relative = points - np.repeat(low, np.add.reduceat(lengths, first_part), axis=0)
    x, y = relative.T
    twice = np.abs(np.add.reduceat(x * y[following] - x[following] * y, first_point))[first_part]
    bounds = (high - low).prod(axis=1)
    rectangle = usable & (num_parts == 1) & (bounds > 0) & (twice >= 2 * _RECTANGLE * bounds)
    counts.rectangles += int(rectangle.sum())
    for problem, holds in (
        (FAR_OUTSIDE, ~usable),
        (OUTSIDE_IMAGE, outside & usable),
        (BESIDE_BOX, beside & usable),
    ):
        for row in rows[holds].tolist():
            counts.add(problem, row)
    for place in np.flatnonzero((num_parts > 1) & usable).tolist():
        if _has_hole(masks[place]):
            counts.add(HOLES, int(rows[place]))
    return usable


def _overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the IoU of boxes, ``x, y, width, height``, (M, 4) each."""
    ends = np.minimum(first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:])
    shared = np.clip(ends - np.maximum(first[:, :2], second[:, :2]), 0, None).prod(axis=1)
    whole = first[:, 2:].prod(axis=1) + second[:, 2:].prod(axis=1) - shared
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def _has_hole(parts: Sequence[Sequence[float]]) -> bool:
    """Returns whether one polygon lies inside of another one."""
    polygons = [np.array(part, dtype=np.float32).reshape(-1, 2) for part in parts]
    low, high = ([f(p, axis=0) for p in polygons] for f in (np.min, np.max))
    low, high = np.array(low), np.array(high)
    for inner, points in enumerate(polygons):
        inside = (low[inner] > low).all(axis=1) & (high[inner] < high).all(axis=1)
        for outer in np.flatnonzero(inside):
            if all(
                cv2.pointPolygonTest(polygons[outer], (float(x), float(y)), False) > 0
                for x, y in points
            ):
                return True
    return False
