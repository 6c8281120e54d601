"""The boxes of an evaluation, as columns: those to find and those that were found; also masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..data.annotation_columns import AnnotationColumns
from ..instance_masks import RunLengths
from .true_masks import masks_of_file


@dataclass(frozen=True)
class TrueBoxes:
    """The boxes to find in all images, and the crowd regions, in which detections do not count.

    Attributes:
        images: Index of the image of each box, (M,).
        boxes: ``x, y, width, height`` in pixels, (M, 4).
        labels: Classes, (M,), from 0.
        areas: Areas of the objects in square pixels, (M,).
        crowd: Whether each is a crowd region, (M,).
        masks: Masks of the size of their image, M; ``None`` if there are none.
        known: Whether each mask is known, (M,); ``None`` without masks. One that is not has the
            pixels of its box.
    """

    images: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    masks: Sequence[RunLengths] | None = None
    known: np.ndarray | None = None


@dataclass(frozen=True)
class FoundBoxes:
    """The detections of all images.

    Attributes:
        images: Index of the image of each detection, (N,).
        boxes: ``x, y, width, height`` in pixels, (N, 4).
        labels: Classes, (N,), from 0.
        scores: Scores, (N,) in 0..1.
        masks: Masks of the size of their image, N; ``None`` if there are none.
    """

    images: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: Sequence[RunLengths] | None = None


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

    def most_in_an_image(self) -> int:
        """Returns the largest number of boxes to find in an image."""
        return int(np.bincount(self.true.images[~self.true.crowd]).max(initial=0))

    @property
    def has_masks(self) -> bool:
        """Whether there are masks on both sides."""
        return self.true.masks is not None and self.found.masks is not None

    def for_masks(self) -> EvaluatedBoxes:
        """Returns them with objects whose mask is not known as crowd regions of their box."""
        true = self.true
        return replace(self, true=replace(true, crowd=true.crowd | ~true.known))


def true_boxes(
    images: Sequence[int],
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    crowd: Sequence[int],
    masks: Sequence[RunLengths] | None = None,
    known: np.ndarray | None = None,
) -> TrueBoxes:
    """Makes columns of boxes whose objects have the area of their box.

    Args:
        images: Index of the image of each box.
        boxes: ``x, y, width, height`` in pixels.
        labels: Classes, from 0.
        crowd: 1 for crowd regions, else 0.
        masks: As for :class:`TrueBoxes`.
        known: As for :class:`TrueBoxes`.
    """
    boxes = np.asarray(boxes, dtype=float).reshape(-1, 4)
    return TrueBoxes(
        images=np.asarray(images, dtype=np.int64),
        boxes=boxes,
        labels=np.asarray(labels, dtype=np.int64),
        areas=boxes[:, 2] * boxes[:, 3],
        crowd=np.asarray(crowd, dtype=bool),
        masks=masks,
        known=known,
    )


def found_boxes(
    images: Sequence[int],
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    scores: Sequence[float],
    masks: Sequence[RunLengths] | None = None,
) -> FoundBoxes:
    """Makes columns of detections.

    Args:
        images: Index of the image of each detection.
        boxes: ``x, y, width, height`` in pixels.
        labels: Classes, from 0.
        scores: Scores.
        masks: As for :class:`FoundBoxes`.
    """
    return FoundBoxes(
        images=np.asarray(images, dtype=np.int64),
        boxes=np.asarray(boxes, dtype=float).reshape(-1, 4),
        labels=np.asarray(labels, dtype=np.int64),
        scores=np.asarray(scores, dtype=float),
        masks=masks,
    )


def true_boxes_of_file(
    columns: AnnotationColumns, images: np.ndarray, labels: np.ndarray, with_masks: bool = False
) -> TrueBoxes:
    """Returns the annotations of a file.

    Args:
        columns: The file.
        images: Index of each of its images in the evaluation, (N,); -1 leaves its boxes out.
        labels: Label of each of its categories, (C,); -1 leaves their boxes out.
        with_masks: Whether to return masks too; the file must have been read with segmentations.
    """
    rows = np.flatnonzero((columns.image_index >= 0) & (columns.category_index >= 0))
    image_of, label_of = images[columns.image_index[rows]], labels[columns.category_index[rows]]
    chosen = (image_of >= 0) & (label_of >= 0)
    rows = rows[chosen]
    masks, known = masks_of_file(columns, rows) if with_masks else (None, None)
    return TrueBoxes(
        images=image_of[chosen],
        boxes=columns.boxes[rows],
        labels=label_of[chosen],
        areas=columns.areas[rows],
        crowd=columns.crowd[rows],
        masks=masks,
        known=known,
    )


def boxes_of_files(
    columns: AnnotationColumns, predictions: Sequence[Mapping[str, Any]]
) -> EvaluatedBoxes:
    """Returns the boxes of an annotation file; images and labels follow the order of the file.

    There are masks if the annotations were read with segmentations and all predictions have one.

    Args:
        columns: The annotations.
        predictions: Dicts with ``image_id``, ``category_id``, ``bbox`` and ``score``, and for masks
            ``segmentation`` as run lengths.
    """
    images = columns.image_positions
    labels = {category['id']: label for label, category in enumerate(columns.categories)}
    with_masks = columns.segmentations is not None and bool(predictions)
    with_masks &= all('segmentation' in prediction for prediction in predictions)
    every_image, every_label = np.arange(columns.num_images), np.arange(len(labels))
    return EvaluatedBoxes(
        columns.num_images,
        true_boxes_of_file(columns, every_image, every_label, with_masks),
        found_boxes(
            images=[images[prediction['image_id']] for prediction in predictions],
            boxes=[prediction['bbox'] for prediction in predictions],
            labels=[labels[prediction['category_id']] for prediction in predictions],
            scores=[prediction['score'] for prediction in predictions],
            masks=[prediction['segmentation'] for prediction in predictions]
            if with_masks
            else None,
        ),
    )
