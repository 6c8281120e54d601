"""Matches of boxes and detections, image by image and detection by detection."""

import numpy as np


def box_iou(first, second, over_first=False):
    """Overlap of boxes x, y, w, h, (N, M), over the union or over the area of the first one."""
    overlaps = np.zeros((len(first), len(second)))
    for i, (x1, y1, w1, h1) in enumerate(first):
        for j, (x2, y2, w2, h2) in enumerate(second):
            width = max(min(x1 + w1, x2 + w2) - max(x1, x2), 0)
            height = max(min(y1 + h1, y2 + h2) - max(y1, y2), 0)
            shared = width * height
            areas = max(w1, 0) * max(h1, 0), max(w2, 0) * max(h2, 0)
            whole = areas[0] if over_first else areas[0] + areas[1] - shared
            overlaps[i, j] = shared / whole if whole > 0 else 0
    return overlaps


def match_image(true_boxes, true_labels, crowd, boxes, labels, scores, score_thr, iou_thr):
    """Returns the matches of an image: pairs (box, detection), and the other detections.

    Each detection takes the free box of its class that it overlaps most, the one of the highest
    score first; then those without a box take a free box of any class.
    """
    order = [i for i in np.argsort(-scores, kind='stable').tolist() if scores[i] >= score_thr]
    overlaps = box_iou(boxes, true_boxes)
    covered = box_iou(boxes, true_boxes, over_first=True)
    box_of = {}
    for same_class in (True, False):
        for index in order:
            if index in box_of:
                continue
            best = None
            for box in range(len(true_boxes)):
                if crowd[box] or box in box_of.values() or overlaps[index, box] < iou_thr:
                    continue
                if (true_labels[box] == labels[index]) != same_class:
                    continue
                if best is None or overlaps[index, box] > overlaps[index, best]:
                    best = box
            if best is not None:
                box_of[index] = best
    surplus = [
        index
        for index in order
        if index not in box_of
        and not any(crowd[box] and covered[index, box] >= iou_thr for box in range(len(crowd)))
    ]
    repeated = [
        index
        for index in surplus
        if any(
            not crowd[box] and true_labels[box] == labels[index] and overlaps[index, box] >= iou_thr
            for box in range(len(crowd))
        )
    ]
    return dict(
        detections=order,
        pairs=[(box_of[index], index) for index in order if index in box_of],
        missed=[b for b in range(len(crowd)) if not crowd[b] and b not in box_of.values()],
        surplus=surplus,
        repeated=repeated,
    )
