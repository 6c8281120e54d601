"""COCO's evaluation of boxes, with the fast implementation where it is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .image_boxes import ImageBoxes

BACKENDS = ('faster_coco_eval', 'pycocotools')
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


def choose_backend(backend: str | None = None) -> str:
    """Returns the name of the implementation to use.

    Args:
        backend: One of ``BACKENDS``; ``None`` takes the fast one if it is installed.

    Raises:
        InputError: If ``backend`` is not one of them.
    """
    if backend is None:
        return BACKENDS[importlib.util.find_spec(BACKENDS[0]) is None]
    if backend not in BACKENDS:
        raise InputError(f'backend must be one of {BACKENDS}, but is {backend!r}')
    return backend


def evaluate_boxes(
    images: Sequence[ImageBoxes],
    num_classes: int,
    iou_thrs: Sequence[float] = IOU_THRESHOLDS,
    max_detections: Sequence[int] = COCO_MAX_DETECTIONS,
    backend: str | None = None,
) -> CocoEvaluation:
    """Runs COCO's evaluation.

    Images, annotations and classes get numbers here, whatever their ids in files: COCO's code sorts
    categories by id, and reads an annotation id of 0 as "not matched".

    Args:
        images: Boxes of every image.
        num_classes: Number of classes.
        iou_thrs: IoU thresholds.
        max_detections: Maximum numbers of detections per image, ascending.
        backend: As for ``choose_backend``.
    """
    coco_class, eval_class = _coco_classes(choose_backend(backend))
    entries = [dict(id=number) for number in range(1, len(images) + 1)]
    categories = [dict(id=label) for label in range(num_classes)]
    truths, found = [], []
    for number, image in enumerate(images, start=1):
        for box, label, area, crowd in zip(
            image.true_boxes.tolist(),
            image.true_labels.tolist(),
            image.true_areas.tolist(),
            image.crowd.tolist(),
            strict=True,
        ):
            truths.append(_annotation(len(truths), number, label, box, area, iscrowd=int(crowd)))
        for box, label, score in zip(
            image.boxes.tolist(), image.labels.tolist(), image.scores.tolist(), strict=True
        ):
            area = box[2] * box[3]
            found.append(_annotation(len(found), number, label, box, area, iscrowd=0, score=score))
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for annotations in (truths, found):
            side = coco_class()
            side.dataset = dict(images=entries, categories=categories, annotations=annotations)
            side.createIndex()
            sides.append(side)
        evaluation = eval_class(*sides, 'bbox')
        evaluation.params.imgIds = [entry['id'] for entry in entries]
        evaluation.params.catIds = list(range(num_classes))
        evaluation.params.maxDets = list(max_detections)
        evaluation.params.iouThrs = np.asarray(iou_thrs, dtype=float)
        evaluation.evaluate()
        evaluation.accumulate()
    recalls = np.asarray(evaluation.params.recThrs)
    columns = (num_classes, len(AREAS), len(max_detections))
    points = (len(iou_thrs), len(recalls), *columns)
    found_arrays = {
        name: np.asarray(evaluation.eval[name], dtype=float) for name in ('precision', 'scores')
    }
    return CocoEvaluation(
        precision=found_arrays['precision'].reshape(points),
        scores=found_arrays['scores'].reshape(points),
        recall=np.asarray(evaluation.eval['recall'], float).reshape(len(iou_thrs), *columns),
        recalls=recalls,
        iou_thrs=np.asarray(iou_thrs, dtype=float),
    )


def _annotation(
    index: int, image: int, label: int, box: list[float], area: float, **values: float
) -> dict:
    return dict(values, id=index + 1, image_id=image, category_id=label, bbox=box, area=area)


def _coco_classes(backend: str) -> tuple[type, type]:
    """Returns the class that holds annotations and the class that evaluates them."""
    if backend == 'faster_coco_eval':
        from faster_coco_eval import COCO, COCOeval_faster

        return COCO, COCOeval_faster
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return COCO, COCOeval


def count_sizes(images: Sequence[ImageBoxes]) -> np.ndarray:
    """Counts the small, medium and large boxes to find, (3,), by COCO's limits 32^2 and 96^2."""
    counts = np.zeros(3, dtype=int)
    for image in images:
        areas = image.true_areas[~image.crowd]
        np.add.at(counts, (areas >= 32**2).astype(int) + (areas >= 96**2), 1)
    return counts


def coco_table(evaluation: CocoEvaluation) -> list[tuple[str, float]]:
    """Returns the names and values (0..1 or -1) of COCO's twelve figures.

    Args:
        evaluation: Results for COCO's IoU thresholds and 1, 10 and 100 detections per image.
    """
    precision, recall = evaluation.average_precision, evaluation.average_recall
    return [
        ('AP, IoU 0.50:0.95', precision()),
        ('AP, IoU 0.50', precision(0.5)),
        ('AP, IoU 0.75', precision(0.75)),
        *((f'AP, {name}', precision(area=area)) for area, name in enumerate(AREAS) if area),
        ('AR, 1 detection', recall(column=0)),
        ('AR, 10 detections', recall(column=1)),
        ('AR, 100 detections', recall(column=2)),
        *((f'AR, {name}', recall(area)) for area, name in enumerate(AREAS) if area),
    ]
