"""Classification losses of matched queries, CARL and a matching cost, one number at a time."""

import math


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def iou(first, second, generalized=False):
    """Overlap of two boxes (x1, y1, x2, y2)."""
    width = max(min(first[2], second[2]) - max(first[0], second[0]), 0)
    height = max(min(first[3], second[3]) - max(first[1], second[1]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    union = sum(areas) - width * height
    overlap = width * height / union
    if generalized:
        hull = (max(first[2], second[2]) - min(first[0], second[0])) * (
            max(first[3], second[3]) - min(first[1], second[1])
        )
        overlap -= (hull - union) / hull
    return overlap


def ia_bce(logit, overlap, alpha, gamma):
    """LW-DETR's loss of one class of one query; an overlap of None is a negative."""
    p = sigmoid(logit)
    if overlap is None:
        return -(p**gamma) * math.log(1 - p)
    target = max(p**alpha * overlap ** (1 - alpha), 0.01)
    return -target * math.log(p) - (1 - target) * math.log(1 - p)


def mal(logit, overlap, gamma):
    """DEIM's loss of one class of one query; an overlap of None is a negative."""
    p = sigmoid(logit)
    if overlap is None:
        return -(p**gamma) * math.log(1 - p)
    target = overlap**gamma
    return -target * math.log(p) - (1 - target) * math.log(1 - p)


def ia_bce_slope(logit, overlap, alpha, gamma):
    """The derivative of :func:`ia_bce` by the logit; the target counts as a constant."""
    p = sigmoid(logit)
    if overlap is None:
        return p**gamma * (p - gamma * (1 - p) * math.log(1 - p))
    return p - max(p**alpha * overlap ** (1 - alpha), 0.01)


def mal_slope(logit, overlap, gamma):
    """The derivative of :func:`mal` by the logit; the weight counts as a constant."""
    p = sigmoid(logit)
    return p**gamma * p if overlap is None else p - overlap**gamma


def carl(probabilities, losses, k, bias):
    """The regression loss of one image, with the weights of prime sample attention."""
    weights = [(bias + (1 - bias) * p) ** k for p in probabilities]
    scale = len(weights) / sum(weights)
    return sum(weight * scale * loss for weight, loss in zip(weights, losses, strict=True))


def position_modulated_cost(logit, first, second, weight, alpha, gamma, beta):
    """Stable-DINO's class cost of one query for one box."""
    p = sigmoid(logit) * ((1 + iou(first, second, generalized=True)) / 2) ** beta
    positive = -alpha * (1 - p) ** gamma * math.log(p)
    negative = -(1 - alpha) * p**gamma * math.log(1 - p)
    return weight * (positive - negative)
