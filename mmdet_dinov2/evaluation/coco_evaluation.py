"""COCO's evaluation of boxes and of masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hotcoco import COCO, COCOeval

from ..instance_masks import mask_areas
from .evaluated_boxes import EvaluatedBoxes

AREAS = ('all', 'small', 'medium', 'large')
IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
# Detections per image that COCO's own tables score.
COCO_MAX_DETECTIONS = (1, 10, 100)


@dataclass(frozen=True)
class CocoEvaluation:
    """What COCO's evaluation accumulates; -1 where there is nothing to find.

    Attributes:
        precision: Precision at every recall, (T, R, C, A, M): IoU thresholds, recalls, classes,
            areas (all, small, medium, large), maximum numbers of detections per image.
        scores: Score at each of these points, of the same shape.
        recall: Highest recall, (T, C, A, M).
        recalls: The recalls of ``precision``, (R,) in 0..1.
        iou_thrs: The IoU thresholds, (T,).
    """

    precision: np.ndarray
    scores: np.ndarray
    recall: np.ndarray
    recalls: np.ndarray
    iou_thrs: np.ndarray

    def average_precision(
        self,
        iou_thr: float | None = None,
        area: int = 0,
        label: int | None = None,
        column: int = -1,
    ) -> float:
        """Returns the mean precision in 0..1, or -1.

        Args:
            iou_thr: One of the IoU thresholds; ``None`` takes the mean over all.
            area: Index of the area.
            label: One of the classes; ``None`` takes the mean over all.
            column: Index of the maximum number of detections.
        """
        ious = slice(None) if iou_thr is None else np.isclose(self.iou_thrs, iou_thr)
        classes = slice(None) if label is None else [label]
        return _mean_of_valid(self.precision[ious][:, :, classes, area, column])

    def average_recall(self, area: int = 0, column: int = -1) -> float:
        """Returns the mean over IoU thresholds and classes of the highest recall, 0..1, or -1."""
        return _mean_of_valid(self.recall[:, :, area, column])

    def curves(self) -> np.ndarray:
        """Returns the precision of every class over the recalls at an IoU of 0.5, (C, R)."""
        return self.precision[self.at_half, :, :, 0, -1].T

    @property
    def at_half(self) -> int:
        """Index of the IoU threshold nearest to 0.5."""
        return int(np.argmin(np.abs(self.iou_thrs - 0.5)))


def _mean_of_valid(values: np.ndarray) -> float:
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else -1.0


def evaluate_boxes(
    boxes: EvaluatedBoxes,
    num_classes: int,
    iou_thrs: Sequence[float] = IOU_THRESHOLDS,
    max_detections: Sequence[int] = COCO_MAX_DETECTIONS,
    by_masks: bool = False,
) -> CocoEvaluation:
    """Runs COCO's evaluation, with hotcoco: the arrays are those of pycocotools, bit for bit.

    Images and classes are numbered from 1 here, whatever their ids in files. Among detections of
    equal score, those of earlier images come first, and in an image the earlier ones.

    By masks, objects whose mask is not known count as crowd regions of the size of their box, so
    detections on them are neither right nor wrong.

    Args:
        boxes: Boxes of all images.
        num_classes: Number of classes.
        iou_thrs: IoU thresholds.
        max_detections: Maximum numbers of detections per image, ascending.
        by_masks: Whether masks are compared instead of boxes; both sides must have them.
    """
    if by_masks:
        boxes = boxes.for_masks()
    true, found = boxes.true, boxes.found
    truths = COCO.from_arrays(
        [dict(id=number, width=1, height=1) for number in range(1, boxes.num_images + 1)],
        [dict(id=number, name=str(number)) for number in range(1, num_classes + 1)],
        true.images + 1,
        true.labels + 1,
        true.boxes,
        area=true.areas,
        iscrowd=true.crowd,
        segmentation=list(true.masks) if by_masks else None,
    )
    found_boxes = found.boxes
    if by_masks:
        # hotcoco takes the area of a detection from its box, pycocotools from its mask. Nothing
        # else of the box matters here.
        areas = mask_areas(found.masks)
        zeros = np.zeros_like(areas)
        found_boxes = np.column_stack([zeros, zeros, areas, zeros + 1])
    # image, x, y, width, height, score, class
    results = np.column_stack([found.images + 1, found_boxes, found.scores, found.labels + 1])
    detections = truths.load_res(results, segmentation=list(found.masks) if by_masks else None)
    evaluation = COCOeval(truths, detections, 'segm' if by_masks else 'bbox')
    evaluation.params.max_dets = list(max_detections)
    evaluation.params.iou_thrs = list(map(float, iou_thrs))
    evaluation.evaluate()
    evaluation.accumulate()
    return CocoEvaluation(
        precision=evaluation.eval['precision'],
        scores=evaluation.eval['scores'],
        recall=evaluation.eval['recall'],
        recalls=np.asarray(evaluation.params.rec_thrs),
        iou_thrs=np.asarray(iou_thrs, dtype=float),
    )


def count_sizes(boxes: EvaluatedBoxes) -> np.ndarray:
    """Counts the small, medium and large boxes to find, (3,), by COCO's limits 32^2 and 96^2."""
    areas = boxes.true.areas[~boxes.true.crowd]
    return np.bincount((areas >= 32**2).astype(int) + (areas >= 96**2), minlength=3)


def table_detections(boxes: EvaluatedBoxes) -> tuple[int, ...]:
    """Returns the maximum numbers of detections per image of a table: COCO's, and as many as boxes.

    Args:
        boxes: Boxes of all images.
    """
    most = boxes.most_in_an_image()
    return (*COCO_MAX_DETECTIONS, *([most] if most > COCO_MAX_DETECTIONS[-1] else []))


def coco_table(
    evaluation: CocoEvaluation, max_detections: Sequence[int] = COCO_MAX_DETECTIONS
) -> list[tuple[str, float]]:
    """Returns the names and values (0..1 or -1) of COCO's twelve figures.

    Args:
        evaluation: Results for COCO's IoU thresholds.
        max_detections: Its maximum numbers of detections per image, as of
            :func:`table_detections`. AP and AR by area are for the last one; if that is not 100, a
            thirteenth figure is AP with 100.
    """
    precision, recall = evaluation.average_precision, evaluation.average_recall
    return [
        ('AP, IoU 0.50:0.95', precision()),
        ('AP, IoU 0.50', precision(0.5)),
        ('AP, IoU 0.75', precision(0.75)),
        *((f'AP, {name}', precision(area=area)) for area, name in enumerate(AREAS) if area),
        *(
            (f'AR, {number} detection{"s" * (number > 1)}', recall(column=column))
            for column, number in enumerate(max_detections)
        ),
        *((f'AR, {name}', recall(area)) for area, name in enumerate(AREAS) if area),
        *(
            (f'AP, {number} detections', precision(column=column))
            for column, number in list(enumerate(max_detections))[2:-1]
        ),
    ]
