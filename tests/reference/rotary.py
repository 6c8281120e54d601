"""Rotary positions of DINOv3 by their definition, channel by channel in double precision."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def slow_rotate(x: Tensor, row: int, col: int, rows: int, cols: int) -> Tensor:
    """Turns the channels (D,) of one head of one patch.

    The plane of channels i and i + D / 2 is turned by 2 pi c / p. The first half of the planes has
    c = y, the second c = x, and p = 100 ** (i / (D / 4)) counts from 0 in each half.
    """
    dim = len(x)
    turned = torch.empty(dim, dtype=torch.float64)
    for plane in range(dim // 2):
        axis, number = divmod(plane, dim // 4)
        if axis == 0:
            coordinate = (row + 0.5) / rows * 2 - 1
        else:
            coordinate = (col + 0.5) / cols * 2 - 1
        angle = 2 * math.pi * coordinate / 100 ** (number / (dim // 4))
        first, second = float(x[plane]), float(x[plane + dim // 2])
        turned[plane] = first * math.cos(angle) - second * math.sin(angle)
        turned[plane + dim // 2] = second * math.cos(angle) + first * math.sin(angle)
    return turned
