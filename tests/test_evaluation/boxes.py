"""Boxes and detections for the tests of the evaluation."""

import numpy as np

from mmdet_dinov2.evaluation.evaluated_boxes import EvaluatedBoxes, FoundBoxes, TrueBoxes


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


def columns(rows, types):
    """Returns the columns of rows whose second entry is a box."""
    parts = list(zip(*rows)) or [[] for _ in types]
    return [
        np.array(part, dtype=kind).reshape((-1, 4) if place == 1 else -1)
        for place, (part, kind) in enumerate(zip(parts, types))
    ]
