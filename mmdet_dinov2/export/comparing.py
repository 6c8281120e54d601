"""Comparison of detections, and of the stages that lead to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

# Detections with a lower score are compared only as far as they are among the best of their image.
MIN_SCORE = 0.05
NUM_BEST = 10


@dataclass(frozen=True)
class Detections:
    """Detections in an image, highest score first.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels of the input, (N, 4).
        scores: (N,).
        labels: (N,).
        masks: COCO's run lengths of N masks, in pixels of the input; None without masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: Sequence[dict] | None = None


@dataclass(frozen=True)
class Difference:
    """How far detections are from those that were expected.

    Attributes:
        pixels: Largest difference of a coordinate.
        score: Largest difference of a score.
        labels: Number of detections without a counterpart of the same label and score.
        compared: Number of detections that were compared.
        overlaps: Sum of the IoUs of their masks.
        least_overlap: Smallest IoU of two masks.
    """

    pixels: float = 0.0
    score: float = 0.0
    labels: int = 0
    compared: int = 0
    overlaps: float = 0.0
    least_overlap: float = 1.0

    @property
    def mean_overlap(self) -> float:
        """Mean IoU of the masks of detections that have a counterpart."""
        return self.overlaps / max(1, self.compared - self.labels)

    def with_worst(self, other: Difference) -> Difference:
        """Returns the larger differences of the two, and all that was compared."""
        return Difference(
            _worst(self.pixels, other.pixels),
            _worst(self.score, other.score),
            self.labels + other.labels,
            self.compared + other.compared,
            self.overlaps + other.overlaps,
            min(self.least_overlap, other.least_overlap),
        )


def _worst(first: float, second: float) -> float:
    return first if np.isnan(first) else max(second, first) if second == second else second


def compare(expected: Detections, found: Detections, tie: float) -> Difference:
    """Compares the detections in an image.

    Scores are compared rank by rank. Where the scores of several detections are almost the same,
    rounding decides their order; so a box is compared with the nearest one of those that have its
    label and almost its score. A detection that may have lost its place at the end of the list in
    that way is not compared.

    Args:
        expected: What PyTorch detects.
        found: What the exported file detects, as many.
        tie: Scores that differ by less are almost the same.
    """
    count = len(expected.scores)
    if len(found.scores) != count or not _all_finite(found):
        return Difference(np.nan, np.nan, count, count)
    if not count:
        return Difference()
    lowest = min(MIN_SCORE, expected.scores[min(NUM_BEST, count) - 1])
    wanted = np.flatnonzero(expected.scores >= lowest)
    at_end = expected.scores - expected.scores[-1] <= tie
    free = np.ones(count, dtype=bool)
    pixels, unmatched, compared = 0.0, 0, 0
    overlaps: list[float] = []
    for index in wanted:
        near = free & (found.labels == expected.labels[index])
        near &= np.abs(found.scores - expected.scores[index]) <= tie
        if not near.any():
            if not at_end[index]:
                compared += 1
                unmatched += 1
            continue
        distances = np.abs(found.boxes[near] - expected.boxes[index]).max(1)
        nearest = int(distances.argmin())
        if at_end[index] and count > NUM_BEST:
            # Its counterpart may be the one that is missing.
            continue
        counterpart = np.flatnonzero(near)[nearest]
        free[counterpart] = False
        pixels = max(pixels, float(distances[nearest]))
        if expected.masks is not None and found.masks is not None:
            overlaps.append(_overlap(expected.masks[index], found.masks[counterpart]))
        compared += 1
    score = np.abs(found.scores[wanted] - expected.scores[wanted]).max(initial=0.0)
    return Difference(
        pixels, float(score), unmatched, compared, sum(overlaps), min(overlaps, default=1.0)
    )


def _overlap(expected: dict, found: dict) -> float:
    """Returns the IoU of two masks; 1 if both are empty."""
    if not coco_mask.area([expected, found]).any():
        return 1.0
    return float(coco_mask.iou([found], [expected], [0])[0, 0])


def _all_finite(found: Detections) -> bool:
    return bool(np.isfinite(found.boxes).all() and np.isfinite(found.scores).all())


def by_level(
    stages: Mapping[str, np.ndarray], areas: Sequence[int], batch: int
) -> dict[str, np.ndarray]:
    """Divides the stage ``pyramid`` (T, C) into ``pyramid level N``, by the cells of each level."""
    divided = {}
    for name, values in stages.items():
        if name != 'pyramid':
            divided[name] = values
            continue
        images = values.reshape(batch, sum(areas), -1)
        for level, of_level in enumerate(np.split(images, np.cumsum(areas)[:-1], axis=1)):
            divided[f'pyramid level {level}'] = of_level
    return divided


def relative_difference(expected: np.ndarray, found: np.ndarray) -> float:
    """Returns the largest difference relative to the largest value; NaN if one is not finite."""
    if expected.shape != found.shape or not np.isfinite(found).all():
        return float('nan')
    scale = float(np.abs(expected).max(initial=0.0)) or 1.0
    return float(np.abs(expected - found.astype(expected.dtype)).max(initial=0.0)) / scale


def first_divergence(
    expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], limit: float
) -> tuple[str, float] | None:
    """Finds the first stage that differs.

    Args:
        expected: Stages of PyTorch, in the order of the computation.
        found: Stages of the exported file; some may be missing.
        limit: Largest relative difference that rounding makes.

    Returns:
        Name of the stage, and its relative difference (NaN: not finite); None if all are alike.
    """
    for name, values in expected.items():
        if name in found:
            difference = relative_difference(values, found[name])
            if not difference <= limit:
                return name, difference
    return None
