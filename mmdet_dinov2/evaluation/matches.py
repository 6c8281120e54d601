"""Which detection matches which box: confusions of classes, and the quality of single images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .image_boxes import ImageBoxes, box_iou

# Where a decision is needed: the lowest score that counts, and the lowest IoU of a match.
SCORE_THRESHOLD = 0.3
IOU_THRESHOLD = 0.5
BACKGROUND = 'background'


@dataclass(frozen=True)
class ImageMatch:
    """The matched boxes and detections of one image.

    Attributes:
        detections: Indices of the detections from the score threshold on, highest score first.
        pairs: Indices (box, detection) of the matches.
        correct: The ``pairs`` of equal class.
        missed: Indices of the boxes without a match; crowd regions are not among them.
        surplus: Indices of the detections that match neither a box nor a crowd region.
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

    Each box matches at most one detection, and each detection at most one box. Boxes go first to
    detections of their class, in order of score, and what is left to those of other classes, which
    makes a confusion. Detections on crowd regions do not count.

    Args:
        image: The boxes.
        score_thr: Lowest score of a detection that counts.
        iou_thr: Lowest IoU of a match.
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
        # They would have matched a box of their class had it been free.
        repeated=[i for i in surplus if (own_class[i] & (overlaps[i] >= iou_thr)).any()],
    )


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
        score_thr: Lowest score of a detection that counts.
        iou_thr: Lowest IoU of a match.
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
    """Returns the indices of the images with the highest and with the lowest F1.

    Images with more boxes and detections come first. No image is in both lists.
    """

    def size(index: int) -> int:
        return matches[index].num_boxes + len(matches[index].detections)

    ranked = sorted(range(len(matches)), key=lambda i: (matches[i].f1, size(i)), reverse=True)
    count = min(count, (len(ranked) + 1) // 2)
    worst = sorted(ranked[count:], key=lambda i: (matches[i].f1, -size(i)))
    return ranked[:count], worst[:count]
