"""Classification loss of queries without a box, where images have weights and unsure boxes."""

from __future__ import annotations

import math

from .query_losses import iou, sigmoid


def background_loss(
    logits, boxes, matched, weights, unsure, threshold: float = 0.5, alpha=0.25, gamma=2.0
) -> float:
    """Adds up the focal loss of negatives, one query after the other.

    Args:
        logits: Class logits of each query of each image.
        boxes: Boxes (x1, y1, x2, y2) of these queries, in pixels.
        matched: For each image, the numbers of the queries that have a box.
        weights: Weight of each image.
        unsure: Unsure boxes of each image, in pixels.
        threshold: Overlap from which on a query lies on an unsure box.
        alpha: That of the focal loss.
        gamma: That of the focal loss.
    """
    total = 0.0
    for image, weight in enumerate(weights):
        for query, box in enumerate(boxes[image]):
            on_unsure = any(iou(box, other) >= threshold for other in unsure[image])
            if on_unsure and query not in matched[image]:
                continue
            for logit in logits[image][query]:
                p = sigmoid(logit)
                total -= weight * (1 - alpha) * p**gamma * math.log1p(-p)
    return total
