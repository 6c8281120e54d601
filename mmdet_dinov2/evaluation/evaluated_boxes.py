"""The boxes of an evaluation, as columns: those to find and those that were found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.annotation_columns import AnnotationColumns


@dataclass(frozen=True)
class TrueBoxes:
    """The boxes to find in all images, and the crowd regions, in which detections do not count.

    Attributes:
        images: Index of the image of each box, (M,).
        boxes: ``x, y, width, height`` in pixels, (M, 4).
        labels: Classes, (M,), from 0.
        areas: Areas of the objects in square pixels, (M,).
        crowd: Whether each is a crowd region, (M,).
    """

    images: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray


@dataclass(frozen=True)
class FoundBoxes:
    """The detections of all images.

    Attributes:
        images: Index of the image of each detection, (N,).
        boxes: ``x, y, width, height`` in pixels, (N, 4).
        labels: Classes, (N,), from 0.
        scores: Scores, (N,) in 0..1.
    """

    images: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class EvaluatedBoxes:
    """What is in a number of images, and what a detector found in them.

    Attributes:
        num_images: Number of images, also of those without any box.
        true: The boxes to find.
        found: The detections.
    """

    num_images: int
    true: TrueBoxes
    found: FoundBoxes


def true_boxes(
    images: Sequence[int],
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    crowd: Sequence[int],
) -> TrueBoxes:
    """Makes columns of boxes whose objects have the area of their box.

    Args:
        images: Index of the image of each box.
        boxes: ``x, y, width, height`` in pixels.
        labels: Classes, from 0.
        crowd: 1 for crowd regions, else 0.
    """
    boxes = np.asarray(boxes, dtype=float).reshape(-1, 4)
    return TrueBoxes(
        images=np.asarray(images, dtype=np.int64),
        boxes=boxes,
        labels=np.asarray(labels, dtype=np.int64),
        areas=boxes[:, 2] * boxes[:, 3],
        crowd=np.asarray(crowd, dtype=bool),
    )


def found_boxes(
    images: Sequence[int],
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    scores: Sequence[float],
) -> FoundBoxes:
    """Makes columns of detections.

    Args:
        images: Index of the image of each detection.
        boxes: ``x, y, width, height`` in pixels.
        labels: Classes, from 0.
        scores: Scores.
    """
    return FoundBoxes(
        images=np.asarray(images, dtype=np.int64),
        boxes=np.asarray(boxes, dtype=float).reshape(-1, 4),
        labels=np.asarray(labels, dtype=np.int64),
        scores=np.asarray(scores, dtype=float),
    )


def true_boxes_of_file(
    columns: AnnotationColumns, images: np.ndarray, labels: np.ndarray
) -> TrueBoxes:
    """Returns the annotations of a file.

    Args:
        columns: The file.
        images: Index of each of its images in the evaluation, (N,); -1 leaves its boxes out.
        labels: Label of each of its categories, (C,); -1 leaves their boxes out.
    """
    rows = np.flatnonzero((columns.image_index >= 0) & (columns.category_index >= 0))
    image_of, label_of = images[columns.image_index[rows]], labels[columns.category_index[rows]]
    chosen = (image_of >= 0) & (label_of >= 0)
    rows = rows[chosen]
    return TrueBoxes(
        images=image_of[chosen],
        boxes=columns.boxes[rows],
        labels=label_of[chosen],
        areas=columns.areas[rows],
        crowd=columns.crowd[rows],
    )


def boxes_of_files(
    columns: AnnotationColumns, predictions: Sequence[Mapping[str, Any]]
) -> EvaluatedBoxes:
    """Returns the boxes of an annotation file; images and labels follow the order of the file.

    Args:
        columns: The annotations.
        predictions: Dicts with ``image_id``, ``category_id``, ``bbox`` and ``score``.
    """
    images = columns.image_positions
    labels = {category['id']: label for label, category in enumerate(columns.categories)}
    return EvaluatedBoxes(
        columns.num_images,
        true_boxes_of_file(columns, np.arange(columns.num_images), np.arange(len(labels))),
        found_boxes(
            images=[images[prediction['image_id']] for prediction in predictions],
            boxes=[prediction['bbox'] for prediction in predictions],
            labels=[labels[prediction['category_id']] for prediction in predictions],
            scores=[prediction['score'] for prediction in predictions],
        ),
    )
