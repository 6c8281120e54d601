"""The boxes of an image: the true ones and the detected ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.coco_file import CocoFile, complete_annotation


@dataclass(frozen=True)
class ImageBoxes:
    """What is in one image, and what a detector found in it.

    All boxes are ``x, y, width, height`` in pixels, as in COCO's files.

    Attributes:
        true_boxes: Boxes to find, and crowd regions, (M, 4).
        true_labels: Their classes, (M,), from 0.
        true_areas: Areas of the objects in square pixels, (M,).
        crowd: Whether each is a crowd region, in which detections do not count, (M,).
        boxes: Boxes of the detections, (N, 4).
        scores: Their scores, (N,) in 0..1.
        labels: Their classes, (N,), from 0.
    """

    true_boxes: np.ndarray
    true_labels: np.ndarray
    true_areas: np.ndarray
    crowd: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def image_boxes(
    annotations: Sequence[Mapping[str, Any]],
    true_labels: Sequence[int],
    boxes: Sequence[Sequence[float]],
    scores: Sequence[float],
    labels: Sequence[int],
) -> ImageBoxes:
    """Collects the boxes of an image.

    Args:
        annotations: Annotations in COCO's format; ``area`` and ``iscrowd`` may be missing.
        true_labels: Their classes, from 0.
        boxes: Boxes of the detections as ``x, y, width, height`` in pixels.
        scores: Their scores.
        labels: Their classes, from 0.
    """
    annotations = [complete_annotation(dict(annotation)) for annotation in annotations]
    return ImageBoxes(
        true_boxes=np.array([a['bbox'] for a in annotations], dtype=float).reshape(-1, 4),
        true_labels=np.array(true_labels, dtype=int),
        true_areas=np.array([a['area'] for a in annotations], dtype=float),
        crowd=np.array([a['iscrowd'] for a in annotations], dtype=bool),
        boxes=np.array(boxes, dtype=float).reshape(-1, 4),
        scores=np.array(scores, dtype=float),
        labels=np.array(labels, dtype=int),
    )


def boxes_of_files(coco: CocoFile, predictions: Sequence[Mapping[str, Any]]) -> list[ImageBoxes]:
    """Returns the boxes of every image of an annotation file; labels follow the order of the file.

    Args:
        coco: The annotations.
        predictions: Dicts with ``image_id``, ``category_id``, ``bbox`` and ``score``.
    """
    label_of = {category['id']: label for label, category in enumerate(coco.categories)}
    truths, found = defaultdict(list), defaultdict(list)
    for annotation in coco.annotations or ():
        truths[annotation['image_id']].append(annotation)
    for prediction in predictions:
        found[prediction['image_id']].append(prediction)
    return [
        image_boxes(
            truths[image['id']],
            [label_of[annotation['category_id']] for annotation in truths[image['id']]],
            [prediction['bbox'] for prediction in found[image['id']]],
            [prediction['score'] for prediction in found[image['id']]],
            [label_of[prediction['category_id']] for prediction in found[image['id']]],
        )
        for image in coco.images
    ]


def box_iou(first: np.ndarray, second: np.ndarray, over_first: bool = False) -> np.ndarray:
    """Returns the overlap of boxes, (N, M) in 0..1; 0 for boxes without area.

    Args:
        first: (N, 4) as ``x, y, width, height``.
        second: (M, 4) as ``x, y, width, height``.
        over_first: Whether to divide by the area of the first box instead of the union, as COCO
            does for crowds.
    """
    first, second = first[:, None], second[None]
    corners = np.maximum(first[..., :2], second[..., :2])
    ends = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    shared = np.clip(ends - corners, 0, None).prod(-1)
    area_first = np.clip(first[..., 2:], 0, None).prod(-1)
    area_second = np.clip(second[..., 2:], 0, None).prod(-1)
    whole = area_first + 0 * area_second if over_first else area_first + area_second - shared
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
