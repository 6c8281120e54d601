"""How good detections are, class by class: average precision, working points, confusions.

Takes and returns plain numbers: nothing here knows of mmdet, files or pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .coco_evaluation import CocoEvaluation
from .evaluated_boxes import EvaluatedBoxes
from .matches import BACKGROUND, SCORE_THRESHOLD, Confusions, count_confusions, match_boxes


@dataclass(frozen=True)
class ClassQuality:
    """Results of one class; ``None`` where it has no box to find.

    Attributes:
        name: Name of the class.
        num_boxes: Number of boxes to find, without crowds.
        ap: Average precision over the IoU thresholds, in 0..1.
        ap_50: At IoU 0.5.
        ap_75: At IoU 0.75.
        ap_s: For boxes below 32 x 32 pixels.
        ap_m: For boxes up to 96 x 96 pixels.
        ap_l: For larger boxes.
        best_score: Score threshold with the highest F1 at IoU 0.5.
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
class DetectionQuality:
    """Results of an evaluation.

    Attributes:
        classes: One entry for each class, in the order of the labels; none if boxes were not
            scored.
        recalls: Recall of the columns of ``curves``, (R,) in 0..1.
        curves: Precision at IoU 0.5 of every class over the recalls, (C, R); -1 where a class has
            no box. Of boxes, or of masks if boxes were not scored.
        confusions: The confusion matrix.
        num_images: Number of evaluated images.
        bad_images: Paths of the images that could not be read, and why.
        mask_classes: As ``classes``, of masks; none if masks were not scored.
    """

    classes: tuple[ClassQuality, ...]
    recalls: np.ndarray
    curves: np.ndarray
    confusions: Confusions
    num_images: int
    bad_images: tuple[tuple[str, str], ...] = ()
    mask_classes: tuple[ClassQuality, ...] = ()

    @property
    def names(self) -> list[str]:
        """Names of the classes."""
        return [entry.name for entry in self.classes or self.mask_classes]

    def to_json(self) -> dict[str, Any]:
        """Returns everything as numbers, strings, lists and dicts."""
        return dict(
            num_images=self.num_images,
            bad_images=[dict(path=path, reason=reason) for path, reason in self.bad_images],
            classes=[asdict(entry) for entry in self.classes],
            mask_classes=[asdict(entry) for entry in self.mask_classes],
            precision_recall=dict(
                iou_thr=0.5, recalls=self.recalls.tolist(), precisions=self.curves.tolist()
            ),
            confusions=dict(
                labels=[*self.names, BACKGROUND],
                matrix=self.confusions.matrix.tolist(),
                score_thr=self.confusions.score_thr,
                iou_thr=self.confusions.iou_thr,
            ),
        )


def measure_quality(
    boxes: EvaluatedBoxes,
    evaluation: CocoEvaluation | None,
    names: Sequence[str],
    score_thr: float = SCORE_THRESHOLD,
    bad_images: Sequence[tuple[str, str]] = (),
    masks: CocoEvaluation | None = None,
) -> DetectionQuality:
    """Collects the results of an evaluation.

    Args:
        boxes: Boxes of all images.
        evaluation: COCO's evaluation of them; ``None`` if only masks were scored.
        names: Names of the classes.
        score_thr: Lowest score of detections that count for the confusions.
        bad_images: Paths of the images that could not be read, and why.
        masks: COCO's evaluation of the masks; ``None`` if they were not scored.
    """
    first = masks if evaluation is None else evaluation
    true = boxes.true
    return DetectionQuality(
        classes=_classes(evaluation, names, true.labels[~true.crowd]),
        recalls=first.recalls,
        curves=first.curves(),
        confusions=count_confusions(match_boxes(boxes, score_thr), len(names)),
        num_images=boxes.num_images,
        bad_images=tuple(bad_images),
        mask_classes=()
        if masks is None
        else _classes(masks, names, true.labels[~true.crowd & true.known]),
    )


def _classes(
    evaluation: CocoEvaluation | None, names: Sequence[str], labels: np.ndarray
) -> tuple[ClassQuality, ...]:
    """Returns the results of all classes, given the labels of what is to be found."""
    if evaluation is None:
        return ()
    counts = np.bincount(labels, minlength=len(names)).tolist()
    return tuple(
        _class_quality(evaluation, label, name, counts[label]) for label, name in enumerate(names)
    )


def _class_quality(
    evaluation: CocoEvaluation, label: int, name: str, num_boxes: int
) -> ClassQuality:
    def average(iou_thr: float | None = None, area: int = 0) -> float | None:
        value = evaluation.average_precision(iou_thr, area, label)
        return None if value < 0 else value

    best_score, precision, recall = _best_f1(
        evaluation.curves()[label],
        evaluation.scores[evaluation.at_half, :, label, 0, -1],
        evaluation.recalls,
    )
    return ClassQuality(
        name=name,
        num_boxes=num_boxes,
        ap=average(),
        ap_50=average(0.5),
        ap_75=average(0.75),
        ap_s=average(area=1),
        ap_m=average(area=2),
        ap_l=average(area=3),
        best_score=best_score,
        precision=precision,
        recall=recall,
    )


def _best_f1(
    precisions: np.ndarray, scores: np.ndarray, recalls: np.ndarray
) -> tuple[float | None, float | None, float | None]:
    """Returns score, precision and recall of the point with the highest F1."""
    if precisions.max() < 0:
        return None, None, None
    f1 = 2 * precisions * recalls / np.maximum(precisions + recalls, 1e-12)
    best = int(f1.argmax())
    if f1[best] == 0:
        return None, 0.0, 0.0
    return float(scores[best]), float(precisions[best]), float(recalls[best])
