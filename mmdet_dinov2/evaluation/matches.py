"""Which detection matches which box: confusions of classes, and the quality of single images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from .evaluated_boxes import EvaluatedBoxes

# Where a decision is needed: the lowest score that counts, and the lowest IoU of a match.
SCORE_THRESHOLD = 0.3
IOU_THRESHOLD = 0.5
BACKGROUND = 'background'
# Pairs of a detection and a box whose overlap is computed at once: 40 MiB.
_MAX_PAIRS = 2**19


@dataclass(frozen=True)
class ImageMatch:
    """The matched boxes and detections of one image, by their positions within the image.

    Attributes:
        detections: The detections from the score threshold on, highest score first.
        pairs: Pairs (box, detection) of the matches, highest score first.
        correct: The ``pairs`` of equal class.
        missed: The boxes without a match; crowd regions are not among them.
        surplus: The detections that match neither a box nor a crowd region.
        repeated: Those of ``surplus`` on a box of their class that a different detection matches.
    """

    detections: list[int]
    pairs: list[tuple[int, int]]
    correct: list[tuple[int, int]]
    missed: list[int]
    surplus: list[int]
    repeated: list[int]

    @property
    def num_boxes(self) -> int:
        """Number of boxes to find."""
        return len(self.pairs) + len(self.missed)


@dataclass(frozen=True)
class Matches:
    """The matched boxes and detections of all images.

    Attributes:
        boxes: The boxes.
        detections: Indices of the detections from the score threshold on, image by image, highest
            score first, (K,).
        box_of: Index of the box that each of them matches; -1 if there is none, (K,).
        on_crowd: Whether each of them lies on a crowd region, (K,).
        on_own_class: Whether each of them lies on a box of its class, (K,).
        missed: Whether each box is to be found and has no match, (M,).
        score_thr: Lowest score of a detection that counts.
        iou_thr: Lowest IoU of a match.
    """

    boxes: EvaluatedBoxes
    detections: np.ndarray
    box_of: np.ndarray
    on_crowd: np.ndarray
    on_own_class: np.ndarray
    missed: np.ndarray
    score_thr: float
    iou_thr: float

    @property
    def matched(self) -> np.ndarray:
        """Whether each of ``detections`` matches a box, (K,)."""
        return self.box_of >= 0

    @property
    def correct(self) -> np.ndarray:
        """Whether each of ``detections`` matches a box of its class, (K,)."""
        if not len(self.boxes.true.labels):
            return np.zeros(len(self.box_of), dtype=bool)
        labels = self.boxes.true.labels[self.box_of]
        return self.matched & (labels == self.boxes.found.labels[self.detections])

    @property
    def surplus(self) -> np.ndarray:
        """Whether each of ``detections`` matches neither a box nor a crowd region, (K,)."""
        return ~self.matched & ~self.on_crowd

    def counts(self) -> np.ndarray:
        """Returns how many boxes to find and how many detections each image has, (I,)."""
        boxes = self._per_image(self.boxes.true.images[~self.boxes.true.crowd])
        return boxes + self._per_image(self._images)

    def f1(self) -> np.ndarray:
        """Returns the harmonic mean of precision and recall of each image, (I,) in 0..1.

        It is 1 for an empty image without detections.
        """
        boxes = self._per_image(self.boxes.true.images[~self.boxes.true.crowd])
        total = boxes + self._per_image(self._images[self.matched | self.surplus])
        correct = self._per_image(self._images[self.correct])
        return np.where(total > 0, 2 * correct / np.maximum(total, 1), 1.0)

    def of_image(self, index: int) -> ImageMatch:
        """Returns the matches of one image."""
        boxes = np.flatnonzero(self.boxes.true.images == index)
        found = np.flatnonzero(self.boxes.found.images == index)
        own = np.flatnonzero(self._images == index)
        place = np.searchsorted(found, self.detections[own])
        pairs = list(
            zip(
                np.searchsorted(boxes, self.box_of[own]).tolist(),
                place.tolist(),
                self.matched[own].tolist(),
                self.correct[own].tolist(),
                strict=True,
            )
        )
        surplus = self.surplus[own]
        return ImageMatch(
            detections=place.tolist(),
            pairs=[(box, detection) for box, detection, matched, _ in pairs if matched],
            correct=[(box, detection) for box, detection, _, correct in pairs if correct],
            missed=np.flatnonzero(self.missed[boxes]).tolist(),
            surplus=place[surplus].tolist(),
            # They would have matched a box of their class had it been free.
            repeated=place[surplus & self.on_own_class[own]].tolist(),
        )

    @property
    def _images(self) -> np.ndarray:
        return self.boxes.found.images[self.detections]

    def _per_image(self, images: np.ndarray) -> np.ndarray:
        return np.bincount(images, minlength=self.boxes.num_images)


def match_boxes(
    boxes: EvaluatedBoxes,
    score_thr: float = SCORE_THRESHOLD,
    iou_thr: float = IOU_THRESHOLD,
    by_masks: bool = False,
) -> Matches:
    """Matches the boxes and the detections of each image.

    Each box matches at most one detection, and each detection at most one box. Boxes go first to
    detections of their class, in order of score, and what is left to those of other classes, which
    makes a confusion. Of several boxes, a detection takes the one that it overlaps most. Detections
    on crowd regions do not count.

    Args:
        boxes: The boxes.
        score_thr: Lowest score of a detection that counts.
        iou_thr: Lowest IoU of a match.
        by_masks: Whether masks are compared instead of boxes. Objects whose mask is not known then
            count as crowd regions.
    """
    if by_masks:
        boxes = boxes.for_masks()
    true, found = boxes.true, boxes.found
    counted = np.flatnonzero(found.scores >= score_thr)
    detections = counted[np.lexsort((-found.scores[counted], found.images[counted]))]
    parts = zip(*_near_pairs(boxes, detections, iou_thr, by_masks), strict=True)
    places, near_boxes, overlaps = map(np.concatenate, parts)
    crowd = true.crowd[near_boxes]
    on_crowd = np.zeros(len(detections), dtype=bool)
    on_crowd[places[crowd]] = True
    places, near_boxes, overlaps = places[~crowd], near_boxes[~crowd], overlaps[~crowd]
    same = true.labels[near_boxes] == found.labels[detections[places]]
    on_own_class = np.zeros(len(detections), dtype=bool)
    on_own_class[places[same]] = True
    # In this order, a pair whose detection and box are both free is a match.
    turns = np.lexsort((near_boxes, -overlaps, places, ~same))
    box_of, free = [-1] * len(detections), (~true.crowd).tolist()
    for place, box in zip(places[turns].tolist(), near_boxes[turns].tolist(), strict=True):
        if free[box] and box_of[place] < 0:
            box_of[place] = box
            free[box] = False
    return Matches(
        boxes=boxes,
        detections=detections,
        box_of=np.array(box_of, dtype=np.int64),
        on_crowd=on_crowd,
        on_own_class=on_own_class,
        missed=np.array(free, dtype=bool),
        score_thr=score_thr,
        iou_thr=iou_thr,
    )


def _near_pairs(
    boxes: EvaluatedBoxes, detections: np.ndarray, iou_thr: float, by_masks: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields the pairs of a detection and a box of the same image that overlap enough, in parts.

    Yields:
        Positions in ``detections``, indices of boxes, and the IoU; for a crowd region the share of
        the detection that lies on it, as COCO does. There is at least one part.
    """
    true, found = boxes.true, boxes.found
    by_image = np.argsort(true.images, kind='stable')
    starts = np.searchsorted(true.images[by_image], np.arange(boxes.num_images + 1))
    images = found.images[detections]
    counts = starts[images + 1] - starts[images]
    ends = np.cumsum(counts)
    begin = 0
    while begin < len(detections) or begin == 0:
        before = ends[begin - 1] if begin else 0
        end = max(int(np.searchsorted(ends, before + _MAX_PAIRS, side='right')), begin + 1)
        part = counts[begin:end]
        places = np.repeat(np.arange(begin, begin + len(part)), part)
        within = np.arange(len(places)) - np.repeat(np.cumsum(part) - part, part)
        near = by_image[starts[images[places]] + within]
        overlaps = _paired_overlap(
            found.boxes[detections[places]], true.boxes[near], true.crowd[near]
        )
        if by_masks:
            touching = np.flatnonzero(overlaps)
            places, near = places[touching], near[touching]
            overlaps = paired_mask_overlap(boxes, detections[places], near)
        enough = overlaps >= iou_thr
        yield places[enough], near[enough], overlaps[enough]
        begin = end


def paired_mask_overlap(
    boxes: EvaluatedBoxes, detections: np.ndarray, objects: np.ndarray
) -> np.ndarray:
    """Returns the overlap of the masks of detections and objects of the same image, (P,) in 0..1.

    Args:
        boxes: Boxes with masks.
        detections: Indices of detections, equal ones next to each other, (P,).
        objects: Index of an object for each of them, (P,).
    """
    true, found = boxes.true, boxes.found
    overlaps = np.zeros(len(detections))
    edges = np.flatnonzero(np.diff(detections, prepend=-1, append=-1))
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        masks = [true.masks[index] for index in objects[start:end].tolist()]
        crowd = true.crowd[objects[start:end]].tolist()
        overlaps[start:end] = coco_mask.iou([found.masks[detections[start]]], masks, crowd)[0]
    return overlaps


def _paired_overlap(first: np.ndarray, second: np.ndarray, over_first: np.ndarray) -> np.ndarray:
    """Returns the overlap of each first box with its second one, (P,) in 0..1; 0 without an area.

    Args:
        first: (P, 4) as ``x, y, width, height``.
        second: (P, 4).
        over_first: Whether to divide by the area of the first box instead of the union, (P,).
    """
    corners = np.maximum(first[:, :2], second[:, :2])
    ends = np.minimum(first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:])
    shared = np.clip(ends - corners, 0, None).prod(1)
    area_first = np.clip(first[:, 2:], 0, None).prod(1)
    union = area_first + np.clip(second[:, 2:], 0, None).prod(1) - shared
    whole = np.where(over_first, area_first, union)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


@dataclass(frozen=True)
class Confusions:
    """Which class was detected as which.

    The diagonal holds the true positives: divided by the sum of its column it is the precision, by
    the sum of its row the recall, at these thresholds.

    Attributes:
        matrix: Counts, (C + 1, C + 1): rows are true classes, columns detected ones. The last row
            holds detections without a box, the last column boxes without a detection.
        score_thr: Lowest score of a detection that counts.
        iou_thr: Lowest IoU of a match.
    """

    matrix: np.ndarray
    score_thr: float
    iou_thr: float

    @property
    def shares(self) -> np.ndarray:
        """Shares of the boxes of each true class in 0..1, (C + 1, C + 1)."""
        return self.matrix / np.maximum(self.matrix.sum(1, keepdims=True), 1)

    def most_frequent(self, count: int) -> list[tuple[int, int, int]]:
        """Returns count, row and column of the largest entries off the diagonal."""
        wrong = self.matrix.copy()
        np.fill_diagonal(wrong, 0)
        largest = np.argsort(-wrong, axis=None, kind='stable')[:count]
        places = zip(*np.unravel_index(largest, wrong.shape), strict=True)
        return [(int(wrong[place]), *map(int, place)) for place in places if wrong[place]]


def count_confusions(matches: Matches, num_classes: int) -> Confusions:
    """Counts the matches by the classes of boxes and detections.

    Args:
        matches: The matches of all images.
        num_classes: Number of classes.
    """
    true, found = matches.boxes.true.labels, matches.boxes.found.labels[matches.detections]
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    matched, surplus = matches.matched, matches.surplus
    np.add.at(matrix, (true[matches.box_of[matched]], found[matched]), 1)
    np.add.at(matrix, (true[matches.missed], num_classes), 1)
    np.add.at(matrix, (num_classes, found[surplus]), 1)
    return Confusions(matrix, matches.score_thr, matches.iou_thr)


def best_and_worst(matches: Matches, count: int = 4) -> tuple[list[int], list[int]]:
    """Returns the indices of the images with the highest and with the lowest F1.

    Images with more boxes and detections come first. No image is in both lists.
    """
    f1, sizes = matches.f1(), matches.counts()
    ranked = np.lexsort((-sizes, -f1))
    count = min(count, (len(ranked) + 1) // 2)
    others = ranked[count:]
    worst = others[np.lexsort((-sizes[others], f1[others]))]
    return ranked[:count].tolist(), worst[:count].tolist()
