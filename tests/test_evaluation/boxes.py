"""Boxes and detections for the tests of the evaluation."""

import dataclasses

import cv2
import numpy as np

from mmdet_dinov2.evaluation.evaluated_boxes import EvaluatedBoxes, FoundBoxes, TrueBoxes
from mmdet_dinov2.instance_masks import encode_masks


def random_boxes(seed, num_images=25, num_classes=4, max_found=40):
    """Boxes of all sizes and near each other, crowds, empty images, equal scores, no area."""
    rng = np.random.default_rng(seed)
    true, found = [], []
    for image in range(num_images):
        count = int(rng.integers(0, 9))
        sides = rng.choice([0, 14, 45, 130], (count, 2), p=[0.02, 0.3, 0.4, 0.28])
        boxes = np.c_[rng.uniform(0, 200, (count, 2)), sides * rng.uniform(0.8, 1.2, (count, 2))]
        labels = rng.integers(0, num_classes, count)
        for place in np.flatnonzero(rng.uniform(size=count) < 0.3)[1:]:  # beside a different one
            boxes[place] = boxes[place - 1] + rng.normal(0, 2, 4)
            boxes[place, 2:] = np.abs(boxes[place, 2:])
            labels[place] = labels[place - 1]
        shares = rng.choice([0.5, 1.0], count)  # areas of masks are smaller than their boxes
        crowd = rng.uniform(size=count) < 0.15
        true += zip([image] * count, boxes, labels, boxes[:, 2] * boxes[:, 3] * shares, crowd)
        for _ in range(int(rng.integers(0, max_found))):
            box, label = rng.uniform(5, 150, 4), int(rng.integers(0, num_classes))
            if count and rng.uniform() < 0.8:
                near = int(rng.integers(0, count))
                box = boxes[near] + rng.normal(0, 4, 4) * (rng.uniform() < 0.9)
                label = labels[near] if rng.uniform() < 0.8 else label
            box[2:] = np.abs(box[2:])
            found.append((image, box, label, round(float(rng.uniform()), 1)))
    return EvaluatedBoxes(
        num_images,
        TrueBoxes(*columns(true, (int, float, int, float, bool))),
        FoundBoxes(*columns(found, (int, float, int, float))),
    )


def with_masks(boxes, seed, height=371, width=419):
    """Adds masks: ellipses in their boxes, found ones a little off; some not known, or empty."""
    rng = np.random.default_rng(seed)
    known = rng.uniform(size=len(boxes.true.labels)) < 0.9

    def draw(rows, jitter):
        masks = []
        for x, y, w, h in rows:
            mask = np.zeros((height, width), np.uint8)
            centre, axes = np.array([x + w / 2, y + h / 2]), np.array([w, h]) / 2
            axes = axes * rng.uniform(1 - jitter, 1, 2)
            cv2.ellipse(mask, *[tuple(map(int, v)) for v in (centre, axes)], 0, 0, 360, 1, -1)
            masks.append(mask if rng.uniform() < 0.97 else mask * 0)
        return encode_masks(masks)

    return dataclasses.replace(
        boxes,
        true=dataclasses.replace(boxes.true, masks=draw(boxes.true.boxes, 0), known=known),
        found=dataclasses.replace(boxes.found, masks=draw(boxes.found.boxes, 0.3)),
    )


def rows_of(side, rows):
    """Returns some of the boxes of one side."""
    values = {field.name: getattr(side, field.name) for field in dataclasses.fields(side)}
    kept = {
        name: value[rows] if isinstance(value, np.ndarray) else [value[row] for row in rows]
        for name, value in values.items()
        if value is not None
    }
    return type(side)(**kept)


def columns(rows, types):
    """Returns the columns of rows whose second entry is a box."""
    parts = list(zip(*rows)) or [[] for _ in types]
    return [
        np.array(part, dtype=kind).reshape((-1, 4) if place == 1 else -1)
        for place, (part, kind) in enumerate(zip(parts, types))
    ]
