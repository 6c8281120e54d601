"""Multi-scale deformable attention, for one sampling point at a time."""

import math

import torch
from torch import Tensor


def slow_deformable_attention(
    value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Computes what ``mmdet_dinov2.layers.deformable_attention`` does for a batch."""
    batch, queries, heads, levels, points = weights.shape
    rows = []
    for b, q, h in _indices(batch, queries, heads):
        out = torch.zeros_like(value[b, 0, h])
        for level, point in _indices(levels, points):
            x, y = locations[b, q, h, level, point]
            sampled = _sample(value[b, :, h], shapes, level, x, y)
            out = out + weights[b, q, h, level, point] * sampled
        rows.append(out)
    if not rows:
        return value.new_zeros(batch, queries, heads * value.shape[3])
    return torch.stack(rows).view(batch, queries, -1)


def _sample(
    cells: Tensor, shapes: list[tuple[int, int]], level: int, x: Tensor, y: Tensor
) -> Tensor:
    start = sum(height * width for height, width in shapes[:level])
    height, width = shapes[level]
    # The centre of cell (row, column) lies at (column + 0.5, row + 0.5).
    x, y = x * width - 0.5, y * height - 0.5
    top, left = math.floor(y.item()), math.floor(x.item())
    out = torch.zeros_like(cells[0])
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < height and 0 <= column < width:
                share = (1 - (y - row).abs()) * (1 - (x - column).abs())
                out = out + share * cells[start + row * width + column]
    return out


def _indices(*sizes: int) -> list[list[int]]:
    return torch.cartesian_prod(*(torch.arange(size) for size in sizes)).tolist()
