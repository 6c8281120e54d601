"""The worst false masks of a detector: confident ones that fit no mask of the annotations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..drawing.box_pictures import draw_small
from ..evaluation.evaluated_boxes import EvaluatedBoxes
from ..evaluation.matches import match_boxes, paired_mask_overlap
from ..instance_masks import RunLengths, decode_mask, encode_masks

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
    pixels: np.ndarray, boxes: EvaluatedBoxes, false: FalseMask, names: Mapping[int, str]
) -> list[tuple[str, bytes]]:
    """Draws a false mask, and the objects around it as they are annotated.

    Args:
        pixels: The image, H x W x 3, uint8, BGR.
        boxes: Boxes with masks of all images.
        false: The false mask.
        names: Name of each label, in the order of the labels.

    Returns:
        What is drawn, and the content of a JPEG file, for the annotations and the prediction.
    """
    height, width = pixels.shape[:2]
    x, y, w, h = boxes.found.boxes[false.detection].tolist()
    left, right = _span(x, w, width)
    top, bottom = _span(y, h, height)
    place = left, top, right, bottom
    objects = np.flatnonzero((boxes.true.images == false.image) & ~boxes.true.crowd).tolist()
    true = [
        _shifted(boxes.true.boxes[i], boxes.true.masks[i], boxes.true.labels[i], place)
        for i in objects
    ]
    found = _shifted(
        boxes.found.boxes[false.detection],
        boxes.found.masks[false.detection],
        boxes.found.labels[false.detection],
        place,
    )
    found['score'] = float(boxes.found.scores[false.detection])
    part = np.ascontiguousarray(pixels[top:bottom, left:right])
    shown = [entry for entry in true if decode_mask(entry['mask']).any()]
    return [
        ('ground truth', draw_small(part, shown, names)),
        ('prediction', draw_small(part, [found], names)),
    ]


def _span(start: float, length: float, whole: int) -> tuple[int, int]:
    """Returns where the part that is shown begins and ends along one side."""
    middle, half = start + length / 2, max(length * _AROUND, _MIN_SIDE) / 2
    low = int(np.clip(np.floor(middle - half), 0, whole - 1))
    return low, int(np.clip(np.ceil(middle + half), low + 1, whole))


def _shifted(
    box: np.ndarray, mask: RunLengths, label: np.integer, place: tuple[int, int, int, int]
) -> dict[str, Any]:
    """Returns a box and its mask in a part of the image, as ``draw_small`` takes them."""
    left, top, right, bottom = place
    (part,) = encode_masks([decode_mask(mask)[top:bottom, left:right]])
    x, y, w, h = box.tolist()
    return dict(bbox=[x - left, y - top, w, h], category_id=int(label), mask=part)
