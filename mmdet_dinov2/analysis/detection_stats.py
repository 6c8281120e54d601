"""What predictions are worth: COCO's figures, classes, precision and recall, confusions, images.

All functions are pure: annotations and predictions in COCO's format in, arrays out.
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..data.coco_file import CocoFile

# Score from which a prediction counts where a decision is needed: confusions, single images.
SCORE_THRESHOLD = 0.3
IOU_THRESHOLD = 0.5
SIZES = ('small, below 32 x 32 px', 'medium', 'large, from 96 x 96 px')


@dataclass(frozen=True)
class CocoScores:
    """Scores of COCO's evaluation, in points; NaN where there is nothing to find.

    Attributes:
        table: Name and value of the twelve figures.
        class_ap: AP of each category, shape (C,).
        class_ap50: AP of each category at an IoU of 0.5, shape (C,).
        class_boxes: Number of boxes of each category, shape (C,).
        recall: Recall points, in 0..1, shape (R,).
        precision: Mean over the categories of the precision at an IoU of 0.5, shape (R,).
        size_boxes: Number of small, medium and large boxes, shape (3,).
    """

    table: list[tuple[str, float]]
    class_ap: np.ndarray
    class_ap50: np.ndarray
    class_boxes: np.ndarray
    recall: np.ndarray
    precision: np.ndarray
    size_boxes: np.ndarray


_TABLE = (
    'AP, IoU 0.50:0.95', 'AP, IoU 0.50', 'AP, IoU 0.75', 'AP, small', 'AP, medium', 'AP, large',
    'AR, 1 detection', 'AR, 10 detections', 'AR, 100 detections', 'AR, small', 'AR, medium',
    'AR, large',
)  # fmt: skip


def coco_scores(coco: CocoFile, predictions: Sequence[dict[str, Any]]) -> CocoScores:
    """Evaluates predictions as COCO does."""
    category_ids = [category['id'] for category in coco.categories]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        annotations = [dict(a, iscrowd=a.get('iscrowd', 0)) for a in coco.annotations or ()]
        truth.dataset = dict(
            images=coco.images, categories=coco.categories, annotations=annotations
        )
        truth.createIndex()
        found = COCO()
        found.dataset = dict(
            images=coco.images,
            categories=coco.categories,
            annotations=[
                dict(p, id=i, iscrowd=0, area=p['bbox'][2] * p['bbox'][3])
                for i, p in enumerate(predictions, 1)
            ],
        )
        found.createIndex()
        evaluation = COCOeval(truth, found, 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # (IoU thresholds, recalls, categories, areas, detections)
    # The evaluation sorts categories by their ids; the file, and so the labels, may not.
    order = np.searchsorted(np.sort(category_ids), category_ids)
    precision = evaluation.eval['precision'][:, :, order, 0, -1]
    precision = np.where(precision < 0, np.nan, precision)
    position = {category_id: i for i, category_id in enumerate(category_ids)}
    class_boxes = np.zeros(len(category_ids), dtype=int)
    size_boxes = np.zeros(3, dtype=int)
    for annotation in annotations:
        if not annotation['iscrowd']:
            class_boxes[position[annotation['category_id']]] += 1
            size_boxes[(annotation['area'] >= 32**2) + (annotation['area'] >= 96**2)] += 1
    stats = [float(value) * 100 if value >= 0 else float('nan') for value in evaluation.stats]
    return CocoScores(
        table=list(zip(_TABLE, stats, strict=True)),
        class_ap=_mean(precision, (0, 1)) * 100,
        class_ap50=_mean(precision[0], 0) * 100,
        class_boxes=class_boxes,
        recall=np.asarray(evaluation.params.recThrs),
        precision=_mean(precision[0], 1),
        size_boxes=size_boxes,
    )


def _mean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Mean over what is a number; NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(axis)
    total = np.where(known, values, 0.0).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of boxes as x, y, w, h of shapes (N, 4) and (M, 4); shape (N, M)."""
    first, second = np.reshape(first, (-1, 1, 4)), np.reshape(second, (1, -1, 4))
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    union = first[..., 2:].prod(-1) + second[..., 2:].prod(-1) - shared
    return np.where(union > 0, shared / np.maximum(union, 1e-12), 0.0)


@dataclass(frozen=True)
class ImageMatch:
    """Boxes and predictions of one image, matched regardless of their classes.

    Attributes:
        image: The entry of the annotation file.
        truth: Its annotations, without crowd regions.
        found: Its predictions from the score threshold on, the highest score first.
        pairs: Indices (annotation, prediction) of those that overlap enough.
    """

    image: dict[str, Any]
    truth: list[dict[str, Any]]
    found: list[dict[str, Any]]
    pairs: list[tuple[int, int]]

    @property
    def num_correct(self) -> int:
        """Pairs of equal class."""
        return sum(
            self.truth[t]['category_id'] == self.found[f]['category_id'] for t, f in self.pairs
        )

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 for an empty image without predictions."""
        total = len(self.truth) + len(self.found)
        return 2 * self.num_correct / total if total else 1.0


def match_images(
    coco: CocoFile,
    predictions: Sequence[dict[str, Any]],
    score_threshold: float = SCORE_THRESHOLD,
    iou_threshold: float = IOU_THRESHOLD,
) -> list[ImageMatch]:
    """Matches predictions and boxes of each image.

    Pairs of the same class come first, then the others, each in the order of their overlap.
    """
    truths, founds = defaultdict(list), defaultdict(list)
    for annotation in coco.annotations or ():
        if not annotation.get('iscrowd'):
            truths[annotation['image_id']].append(annotation)
    for prediction in predictions:
        if prediction['score'] >= score_threshold:
            founds[prediction['image_id']].append(prediction)
    matches = []
    for image in coco.images:
        truth = truths[image['id']]
        found = sorted(founds[image['id']], key=lambda p: -p['score'])
        iou = box_iou(
            np.array([t['bbox'] for t in truth], dtype=float),
            np.array([f['bbox'] for f in found], dtype=float),
        )
        candidates = [(int(t), int(f)) for t, f in np.argwhere(iou >= iou_threshold)]
        candidates.sort(
            key=lambda pair: (
                truth[pair[0]]['category_id'] != found[pair[1]]['category_id'],
                -iou[pair],
            )
        )
        pairs: list[tuple[int, int]] = []
        for t, f in candidates:
            if all(t != other_t and f != other_f for other_t, other_f in pairs):
                pairs.append((t, f))
        matches.append(ImageMatch(image, truth, found, pairs))
    return matches


def confusion_matrix(matches: Sequence[ImageMatch], category_ids: Sequence[int]) -> np.ndarray:
    """How often a box of one class was found as another.

    Returns:
        Counts of shape (C + 1, C + 1): rows are classes of boxes, columns those of predictions. The
        last row is predictions without a box, the last column boxes without a prediction.
    """
    position = {category_id: i for i, category_id in enumerate(category_ids)}
    nothing = len(category_ids)
    matrix = np.zeros((nothing + 1, nothing + 1), dtype=int)
    for match in matches:
        rows = [position[t['category_id']] for t in match.truth]
        columns = [position[f['category_id']] for f in match.found]
        for t, f in match.pairs:
            matrix[rows[t], columns[f]] += 1
        for t in set(range(len(rows))) - {t for t, _ in match.pairs}:
            matrix[rows[t], nothing] += 1
        for f in set(range(len(columns))) - {f for _, f in match.pairs}:
            matrix[nothing, columns[f]] += 1
    return matrix


def best_and_worst(
    matches: Sequence[ImageMatch], count: int = 4
) -> tuple[list[ImageMatch], list[ImageMatch]]:
    """Images with the highest and the lowest F1, no image in both; fuller images first."""
    ranked = sorted(matches, key=lambda m: (m.f1, len(m.truth) + len(m.found)), reverse=True)
    count = min(count, (len(ranked) + 1) // 2)
    worst = sorted(ranked[count:], key=lambda m: (m.f1, -len(m.truth) - len(m.found)))
    return ranked[:count], worst[:count]
