"""How good detections are, class by class: average precision, working points, confusions.

Plain numbers in and out: nothing here knows of mmdet, files or pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

# Axes of the arrays that COCO's evaluation accumulates: IoU, recall, class, area, detections.
_ALL_AREAS = 0


@dataclass(frozen=True)
class ClassQuality:
    """Results of one class. ``None`` where the class has no box to find.

    Attributes:
        name: Name of the class.
        num_boxes: Boxes to find, without crowds.
        ap: Average precision over the IoU thresholds, in 0..1.
        ap_50: At IoU 0.5.
        ap_75: At IoU 0.75.
        ap_s: Of boxes below 32 x 32 pixels.
        ap_m: Of boxes up to 96 x 96 pixels.
        ap_l: Of larger boxes.
        best_score: Score threshold of the highest F1 at IoU 0.5.
        precision: Precision at that threshold.
        recall: Recall at that threshold.
    """

    name: str
    num_boxes: int
    ap: float | None
    ap_50: float | None
    ap_75: float | None
    ap_s: float | None
    ap_m: float | None
    ap_l: float | None
    best_score: float | None
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class Confusions:
    """Which class was taken for which.

    Attributes:
        matrix: Counts, (C + 1, C + 1): rows are true classes, columns detected ones. The last row
            holds detections where nothing is, the last column boxes that nothing was detected for.
        score_thr: Score from which detections count.
        iou_thr: IoU from which a detection lies on a box.
    """

    matrix: np.ndarray
    score_thr: float
    iou_thr: float


@dataclass(frozen=True)
class DetectionQuality:
    """Results of an evaluation.

    Attributes:
        classes: One entry for each class, in the order of the labels.
        recalls: Recall of the columns of ``curves``, (R,) in 0..1.
        curves: Precision at IoU 0.5 of every class over the recalls, (C, R); -1 where a class has
            no box.
        confusions: The confusion matrix.
        num_images: Evaluated images.
        bad_images: Path and reason of the images that could not be read.
    """

    classes: tuple[ClassQuality, ...]
    recalls: np.ndarray
    curves: np.ndarray
    confusions: Confusions
    num_images: int
    bad_images: tuple[tuple[str, str], ...] = ()

    @property
    def names(self) -> list[str]:
        """Names of the classes."""
        return [entry.name for entry in self.classes]

    def to_json(self) -> dict[str, Any]:
        """Everything as numbers, strings, lists and dicts."""
        return dict(
            num_images=self.num_images,
            bad_images=[dict(path=path, reason=reason) for path, reason in self.bad_images],
            classes=[asdict(entry) for entry in self.classes],
            precision_recall=dict(
                iou_thr=0.5, recalls=self.recalls.tolist(), precisions=self.curves.tolist()
            ),
            confusions=dict(
                labels=[*self.names, 'background'],
                matrix=self.confusions.matrix.tolist(),
                score_thr=self.confusions.score_thr,
                iou_thr=self.confusions.iou_thr,
            ),
        )


def mean_of_valid(values: np.ndarray) -> float:
    """Mean of COCO's numbers, of which -1 marks those that do not exist; -1 if all do not."""
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else -1.0


def class_qualities(
    precision: np.ndarray,
    scores: np.ndarray,
    iou_thrs: np.ndarray,
    recalls: np.ndarray,
    names: Sequence[str],
    num_boxes: Sequence[int],
) -> tuple[tuple[ClassQuality, ...], np.ndarray]:
    """Results of every class from the arrays that COCO's evaluation accumulates.

    Args:
        precision: (T, R, C, A, M): IoU thresholds, recalls, classes, the areas all, small, medium
            and large, numbers of detections; -1 for classes without boxes.
        scores: Score at each of these points, of the same shape.
        iou_thrs: IoU thresholds, (T,).
        recalls: Recalls, (R,).
        names: Names of the classes.
        num_boxes: Boxes of each class.

    Returns:
        The results, and the precision at IoU 0.5 over the recalls, (C, R).
    """

    def average(label: int, area: int, iou: float | None = None) -> float | None:
        chosen = np.ones(len(iou_thrs), bool) if iou is None else np.isclose(iou_thrs, iou)
        value = mean_of_valid(precision[chosen][:, :, label, area, -1])
        return None if value < 0 else value

    at_half = int(np.argmin(np.abs(np.asarray(iou_thrs) - 0.5)))
    curves = precision[at_half, :, :, _ALL_AREAS, -1].T
    results = []
    for label, name in enumerate(names):
        best_score, best_precision, best_recall = _best_f1(
            curves[label], scores[at_half, :, label, _ALL_AREAS, -1], recalls
        )
        results.append(
            ClassQuality(
                name=name,
                num_boxes=int(num_boxes[label]),
                ap=average(label, _ALL_AREAS),
                ap_50=average(label, _ALL_AREAS, 0.5),
                ap_75=average(label, _ALL_AREAS, 0.75),
                ap_s=average(label, 1),
                ap_m=average(label, 2),
                ap_l=average(label, 3),
                best_score=best_score,
                precision=best_precision,
                recall=best_recall,
            )
        )
    return tuple(results), curves


def _best_f1(
    precisions: np.ndarray, scores: np.ndarray, recalls: np.ndarray
) -> tuple[float | None, float | None, float | None]:
    """Score, precision and recall of the point with the highest F1."""
    if precisions.max() < 0:
        return None, None, None
    f1 = 2 * precisions * recalls / np.maximum(precisions + recalls, 1e-12)
    best = int(f1.argmax())
    if f1[best] == 0:
        return None, 0.0, 0.0
    return float(scores[best]), float(precisions[best]), float(recalls[best])


def box_iou(first: np.ndarray, second: np.ndarray, over_first: bool = False) -> np.ndarray:
    """Overlap of boxes.

    Args:
        first: (N, 4) as ``x1, y1, x2, y2``.
        second: (M, 4) as ``x1, y1, x2, y2``.
        over_first: Divide by the area of the first box instead of the union, as for crowds.

    Returns:
        (N, M) in 0..1; 0 for boxes without area.
    """
    corners = np.maximum(first[:, None, :2], second[None, :, :2])
    ends = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(ends - corners, 0, None).prod(-1)
    area_first = np.clip(first[:, 2:] - first[:, :2], 0, None).prod(-1)[:, None]
    area_second = np.clip(second[:, 2:] - second[:, :2], 0, None).prod(-1)[None]
    whole = area_first + 0 * area_second if over_first else area_first + area_second - shared
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


class ConfusionCounter:
    """Counts confusions image by image.

    A detection lies on at most one box and a box under at most one detection. Detections of the
    right class choose first, those of higher score before others; what they leave is confused. So
    the diagonal holds the true positives: divided by the sum of its column it is the precision,
    by that of its row the recall, at these thresholds. Detections on crowd regions do not count.

    Args:
        num_classes: Number of classes.
        score_thr: Score from which detections count.
        iou_thr: IoU from which a detection lies on a box.
    """

    def __init__(self, num_classes: int, score_thr: float = 0.3, iou_thr: float = 0.5) -> None:
        self.num_classes = num_classes
        self.score_thr = score_thr
        self.iou_thr = iou_thr
        self._matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)

    def add(
        self,
        boxes: np.ndarray,
        scores: np.ndarray,
        labels: np.ndarray,
        true_boxes: np.ndarray,
        true_labels: np.ndarray,
        crowd_boxes: np.ndarray,
    ) -> None:
        """Counts one image.

        Args:
            boxes: Detected boxes, (N, 4) as ``x1, y1, x2, y2``.
            scores: Their scores, (N,).
            labels: Their classes, (N,).
            true_boxes: Boxes to find, (M, 4).
            true_labels: Their classes, (M,).
            crowd_boxes: Crowd regions, (K, 4).
        """
        background = self.num_classes
        kept = scores >= self.score_thr
        order = np.argsort(-scores[kept], kind='stable')
        boxes, labels = boxes[kept][order], labels[kept][order]
        overlaps = box_iou(boxes, true_boxes)
        detection_free = np.ones(len(boxes), bool)
        box_free = np.ones(len(true_boxes), bool)
        for right_class in (True, False):
            for index in range(len(boxes)):
                allowed = box_free & (overlaps[index] >= self.iou_thr)
                allowed &= (true_labels == labels[index]) == right_class
                if not detection_free[index] or not allowed.any():
                    continue
                match = int(np.where(allowed, overlaps[index], -1).argmax())
                detection_free[index] = box_free[match] = False
                self._matrix[true_labels[match], labels[index]] += 1
        on_crowd = box_iou(boxes, crowd_boxes, over_first=True) >= self.iou_thr
        np.add.at(self._matrix, (background, labels[detection_free & ~on_crowd.any(1)]), 1)
        np.add.at(self._matrix, (true_labels[box_free], background), 1)

    def result(self) -> Confusions:
        """The counts of all images."""
        return Confusions(self._matrix.copy(), self.score_thr, self.iou_thr)
