"""Masks and their losses, pair by pair and point by point."""

import math

import numpy as np


def logit_at(embedding, extent, vector, terms, box, point):
    """The logit of a query at a point, from an embedding (rows, cols, D) of one image."""
    rows, cols = embedding.shape[:2]
    x = min(max(point[0] * extent[0] * cols - 0.5, 0), cols - 1)
    y = min(max(point[1] * extent[1] * rows - 0.5, 0), rows - 1)
    left, top = math.floor(x), math.floor(y)
    right, bottom = min(left + 1, cols - 1), min(top + 1, rows - 1)
    pixel = (
        embedding[top, left] * (1 - x + left) * (1 - y + top)
        + embedding[top, right] * (x - left) * (1 - y + top)
        + embedding[bottom, left] * (1 - x + left) * (y - top)
        + embedding[bottom, right] * (x - left) * (y - top)
    )
    return float(pixel @ vector) + polynomial(terms, box, point)


def polynomial(terms, box, point):
    """The part of a logit that depends on the place relative to the box (cx, cy, w, h)."""
    x1, y1 = max(box[0] - box[2] / 2, 0), max(box[1] - box[3] / 2, 0)
    x2, y2 = min(box[0] + box[2] / 2, 1), min(box[1] + box[3] / 2, 1)
    u = min(max((point[0] - (x1 + x2) / 2) / (x2 - x1) * 2, -2), 2)
    v = min(max((point[1] - (y1 + y2) / 2) / (y2 - y1) * 2, -2), 2)
    return float(np.dot(terms, (1, u, v, u * u, u * v, v * v)))


def cross_entropy(logit, inside):
    """Cross-entropy of one point."""
    probability = 1 / (1 + math.exp(-logit))
    return -math.log(probability if inside else 1 - probability)


def mask_losses(logits, inside):
    """Cross-entropy and dice of a mask at points, not weighted."""
    probabilities = [1 / (1 + math.exp(-logit)) for logit in logits]
    shared = sum(p for p, covered in zip(probabilities, inside, strict=True) if covered)
    dice = 1 - (2 * shared + 1) / (sum(probabilities) + sum(map(int, inside)) + 1)
    entropies = [cross_entropy(*pair) for pair in zip(logits, inside, strict=True)]
    return sum(entropies) / len(entropies), dice


def inside_polygon(polygon, point):
    """Whether a ray from a point to the right crosses the outline an odd number of times."""
    corners = np.reshape(polygon, (-1, 2)).tolist()
    inside = False
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (y1 > point[1]) != (y2 > point[1]):
            inside ^= point[0] < (x2 - x1) * (point[1] - y1) / (y2 - y1) + x1
    return inside
