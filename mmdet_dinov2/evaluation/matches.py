"""Which detection lies on which box: confusions of classes, and how good single images are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .image_boxes import ImageBoxes, box_iou

# From which a detection counts where a decision is needed, and lies on a box.
SCORE_THRESHOLD = 0.3
IOU_THRESHOLD = 0.5
BACKGROUND = 'background'


@dataclass(frozen=True)
class ImageMatch:
    """Boxes and detections of one image, matched.

    Attributes:
        detections: Indices of the detections from the score threshold on, the highest score first.
        pairs: Indices (box, detection) of those that lie on each other.
        correct: Those of ``pairs`` of equal class.
        missed: Indices of the boxes without a detection; crowd regions are none.
        surplus: Indices of the detections that lie on no box and on no crowd region.
        repeated: Those of ``surplus`` that lie on a box of their class, which another one has.
    """

    detections: list[int]
    pairs: list[tuple[int, int]]
    correct: list[tuple[int, int]]
    missed: list[int]
    surplus: list[int]
    repeated: list[int]

    @property
    def num_boxes(self) -> int:
        """Boxes to find."""
        return len(self.pairs) + len(self.missed)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 for an empty image without detections."""
        total = 2 * len(self.pairs) + len(self.missed) + len(self.surplus)
        return 2 * len(self.correct) / total if total else 1.0


def match_boxes(
    image: ImageBoxes,
    score_thr: float = SCORE_THRESHOLD,
    iou_thr: float = IOU_THRESHOLD,
) -> ImageMatch:
    """Matches the boxes and the detections of an image.

    A detection lies on at most one box and a box under at most one detection. Detections of the
    right class choose first, those of higher score before others; what they leave is confused.
    Detections on crowd regions do not count.

    Args:
        image: The boxes.
        score_thr: Score from which detections count.
        iou_thr: IoU from which a detection lies on a box.
    """
    detections = [
        int(index)
        for index in np.argsort(-image.scores, kind='stable')
        if image.scores[index] >= score_thr
    ]
    overlaps = box_iou(image.boxes, image.true_boxes)
    free = ~image.crowd
    box_of: dict[int, int] = {}
    for right_class in (True, False):
        for index in detections:
            allowed = free & (overlaps[index] >= iou_thr)
            allowed &= (image.true_labels == image.labels[index]) == right_class
            if index in box_of or not allowed.any():
                continue
            box_of[index] = int(np.where(allowed, overlaps[index], -1).argmax())
            free[box_of[index]] = False
    on_crowd = box_iou(image.boxes, image.true_boxes[image.crowd], over_first=True) >= iou_thr
    pairs = [(box, index) for index, box in box_of.items()]
    surplus = [i for i in detections if i not in box_of and not on_crowd[i].any()]
    own_class = ~image.crowd & (image.true_labels == image.labels[:, None])
    return ImageMatch(
        detections=detections,
        pairs=pairs,
        correct=[(box, i) for box, i in pairs if image.true_labels[box] == image.labels[i]],
        missed=np.flatnonzero(free).tolist(),
        surplus=surplus,
        # A box of their class, had it been free, would be theirs.
        repeated=[i for i in surplus if (own_class[i] & (overlaps[i] >= iou_thr)).any()],
    )


@dataclass(frozen=True)
class Confusions:
    """Which class was taken for which.

    The diagonal holds the true positives: divided by the sum of its column it is the precision, by
    that of its row the recall, at these thresholds.

    Attributes:
        matrix: Counts, (C + 1, C + 1): rows are true classes, columns detected ones. The last row
            holds detections where nothing is, the last column boxes that nothing was detected for.
        score_thr: Score from which detections count.
        iou_thr: IoU from which a detection lies on a box.
    """

    matrix: np.ndarray
    score_thr: float
    iou_thr: float

    @property
    def shares(self) -> np.ndarray:
        """Share of each true class in 0..1, (C + 1, C + 1)."""
        return self.matrix / np.maximum(self.matrix.sum(1, keepdims=True), 1)

    def most_frequent(self, count: int) -> list[tuple[int, int, int]]:
        """Count, row and column of the largest entries beside the diagonal."""
        wrong = self.matrix.copy()
        np.fill_diagonal(wrong, 0)
        largest = np.argsort(-wrong, axis=None, kind='stable')[:count]
        places = zip(*np.unravel_index(largest, wrong.shape), strict=True)
        return [(int(wrong[place]), *map(int, place)) for place in places if wrong[place]]


def count_confusions(
    images: Sequence[ImageBoxes],
    num_classes: int,
    score_thr: float = SCORE_THRESHOLD,
    iou_thr: float = IOU_THRESHOLD,
) -> Confusions:
    """Counts the matches of images by their classes.

    Args:
        images: Boxes of every image.
        num_classes: Number of classes.
        score_thr: Score from which detections count.
        iou_thr: IoU from which a detection lies on a box.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for image in images:
        match = match_boxes(image, score_thr, iou_thr)
        for box, index in match.pairs:
            matrix[image.true_labels[box], image.labels[index]] += 1
        np.add.at(matrix, (image.true_labels[match.missed], num_classes), 1)
        np.add.at(matrix, (num_classes, image.labels[match.surplus]), 1)
    return Confusions(matrix, score_thr, iou_thr)


def best_and_worst(matches: Sequence[ImageMatch], count: int = 4) -> tuple[list[int], list[int]]:
    """Indices of the images with the highest and the lowest F1; fuller images first.

    No image is in both.
    """

    def size(index: int) -> int:
        return matches[index].num_boxes + len(matches[index].detections)

    ranked = sorted(range(len(matches)), key=lambda i: (matches[i].f1, size(i)), reverse=True)
    count = min(count, (len(ranked) + 1) // 2)
    worst = sorted(ranked[count:], key=lambda i: (matches[i].f1, -size(i)))
    return ranked[:count], worst[:count]
