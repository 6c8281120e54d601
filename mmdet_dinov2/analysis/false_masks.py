"""The worst false masks of a detector: confident ones that fit no mask of the annotations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..drawing.box_pictures import draw_small
from ..evaluation.evaluated_boxes import EvaluatedBoxes, FoundBoxes, TrueBoxes
from ..evaluation.matches import match_boxes, paired_mask_overlap
from ..large_image import LargeImage
from .crops import shifted

# Sides of the part of an image that is shown, relative to those of the box of the mask.
_AROUND = 2.0
_MIN_SIDE = 32


@dataclass(frozen=True)
class FalseMask:
    """A detection whose mask matches no object of its class.

    Attributes:
        image: Index of the image.
        detection: Index of the detection.
        overlap: Highest IoU with the mask of an object of its class in the image, in 0..1.
        nearest: Index of that object; -1 if the overlap is 0.
    """

    image: int
    detection: int
    overlap: float
    nearest: int


def worst_false_masks(boxes: EvaluatedBoxes, count: int) -> list[FalseMask]:
    """Returns the most confident detections whose mask matches no object of their class.

    What lies on a crowd region, or on an object whose mask is not known, is not among them.

    Args:
        boxes: Boxes with masks of all images.
        count: Largest number of detections.
    """
    matches = match_boxes(boxes, by_masks=True)
    false = matches.detections[~matches.correct & ~matches.on_crowd]
    ranked = false[np.argsort(-boxes.found.scores[false], kind='stable')][:count]
    return [_false_mask(matches.boxes, int(index)) for index in ranked]


def _false_mask(boxes: EvaluatedBoxes, detection: int) -> FalseMask:
    true, found = boxes.true, boxes.found
    image = int(found.images[detection])
    near = np.flatnonzero(
        (true.images == image) & (true.labels == found.labels[detection]) & ~true.crowd
    )
    overlaps = paired_mask_overlap(boxes, np.full(len(near), detection), near)
    if not len(near) or not overlaps.max():
        return FalseMask(image, detection, 0.0, -1)
    best = int(overlaps.argmax())
    return FalseMask(image, detection, float(overlaps[best]), int(near[best]))


def draw_false_mask(
    image: LargeImage, boxes: EvaluatedBoxes, false: FalseMask, names: Mapping[int, str]
) -> list[tuple[str, bytes]]:
    """Draws a false mask, and the objects around it as they are annotated.

    Args:
        image: The image.
        boxes: Boxes with masks of all images.
        false: The false mask.
        names: Name of each label, in the order of the labels.

    Returns:
        What is drawn, and the content of a JPEG file, for the annotations and the prediction.
    """
    height, width = image.shape
    x, y, w, h = boxes.found.boxes[false.detection].tolist()
    (left, right), (top, bottom) = _span(x, w, width), _span(y, h, height)
    corners = left, top, right, bottom
    objects = np.flatnonzero((boxes.true.images == false.image) & ~boxes.true.crowd).tolist()
    true = (shifted(_entry(boxes.true, index), corners) for index in objects)
    found = dict(
        _entry(boxes.found, false.detection), score=float(boxes.found.scores[false.detection])
    )
    part = np.ascontiguousarray(image.read(*corners))
    return [
        ('ground truth', draw_small(part, [entry for entry in true if entry], names)),
        ('prediction', draw_small(part, [shifted(found, corners)], names)),
    ]


def _entry(side: TrueBoxes | FoundBoxes, index: int) -> dict[str, Any]:
    """Returns a box and its mask as ``draw_small`` takes them."""
    return dict(
        bbox=side.boxes[index].tolist(),
        category_id=int(side.labels[index]),
        mask=side.masks[index],
    )


def _span(start: float, length: float, whole: int) -> tuple[int, int]:
    """Returns where the part that is shown begins and ends along one side."""
    middle, half = start + length / 2, max(length * _AROUND, _MIN_SIDE) / 2
    low = int(np.clip(np.floor(middle - half), 0, whole - 1))
    return low, int(np.clip(np.ceil(middle + half), low + 1, whole))
