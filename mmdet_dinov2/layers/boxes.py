"""Boxes and their overlaps, in few operators."""

from __future__ import annotations

import torch
from torch import Tensor


def corners_of(boxes: Tensor) -> Tensor:
    """Turns boxes (cx, cy, w, h) into boxes (x1, y1, x2, y2), shape (..., 4)."""
    center, sides = boxes.split(2, -1)
    half = 0.5 * sides
    return torch.cat((center - half, center + half), -1)


def giou_loss(predicted: Tensor, wanted: Tensor, eps: float = 1e-6) -> Tensor:
    """Computes 1 - GIoU of pairs of boxes (arXiv:1902.09630), without waiting for the device.

    Values are those of mmdet's ``giou_loss``, which sends ``eps`` to the device in each call.

    Args:
        predicted: Boxes (x1, y1, x2, y2), shape (M, 4).
        wanted: The boxes that they should be, shape (M, 4).
        eps: Smallest area that is divided by.

    Returns:
        Shape (M,), 0 to 2.
    """
    overlap, union = _overlap_and_union(predicted, wanted, eps)
    (low, high), (other_low, other_high) = (t.split(2, -1) for t in (predicted, wanted))
    hull = _area((high.maximum(other_high) - low.minimum(other_low)).clamp(min=0))
    hull = hull.clamp(min=eps)
    return 1 - (overlap / union - (hull - union) / hull)


def iou_of_pairs(boxes: Tensor, others: Tensor, eps: float = 1e-6) -> Tensor:
    """Computes the IoU of pairs of boxes, without waiting for the device.

    Values are those of mmdet's ``bbox_overlaps``, which sends ``eps`` to the device in each call.

    Args:
        boxes: Boxes (x1, y1, x2, y2), shape (M, 4).
        others: The other boxes of the pairs, shape (M, 4).
        eps: Smallest area that is divided by.

    Returns:
        Shape (M,), 0 to 1.
    """
    overlap, union = _overlap_and_union(boxes, others, eps)
    return overlap / union


def _overlap_and_union(boxes: Tensor, others: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Returns the areas of intersection and union of pairs of boxes, the latter at least eps."""
    (low, high), (other_low, other_high) = (t.split(2, -1) for t in (boxes, others))
    overlap = _area((high.minimum(other_high) - low.maximum(other_low)).clamp(min=0))
    areas = _area(high - low) + _area(other_high - other_low)
    return overlap, (areas - overlap).clamp(min=eps)


def _area(sides: Tensor) -> Tensor:
    # Not `sides.prod(-1)`, whose backward pass looks for zeros on the host.
    width, height = sides.unbind(-1)
    return width * height
