"""Multi-scale deformable attention out of plain gathers, for exported models.

Programs that run exported models have no operator for it, and bilinear samplers differ between
them. Everything here is arithmetic, rows that are taken by number, and matrix products; no number
of cells or queries has to be known when the program is traced.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gather_attention(
    value: Tensor, shapes: Tensor, images: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """Computes the output; see :func:`.deformable_operator.deformable_attention`.

    Args:
        value: Shape (N, heads, head_dim).
        shapes: Height and width of the levels, shape (images, levels, 2).
        images: Image of each query, shape (Q,).
        locations: Shape (Q, heads, levels, points, 2), fp32.
        weights: Shape (Q, heads, levels, points), fp32.

    Returns:
        Shape (Q, heads * head_dim), in the dtype of the values.
    """
    heads, head_dim = value.shape[1:]
    levels, points = weights.shape[2:]
    areas = shapes.prod(2)
    per_image = areas.sum(1, keepdim=True)
    starts = areas.cumsum(1) - areas + per_image.cumsum(0) - per_image
    # Of each query and sampling point, (Q, 1, levels * points): height and width of its level, and
    # the first cell. Long last dimensions, since runtimes broadcast along short ones slowly.
    height, width, start = (
        per_level.int().repeat_interleave(points, 1).index_select(0, images)[:, None]
        for per_level in (*shapes.unbind(2), starts)
    )
    x, y = locations.flatten(2, 3).unbind(3)
    column, left, right = _neighbours(x, width)
    row, upper, lower = _neighbours(y, height)
    weight = weights.flatten(2)
    upper, lower = upper * weight, lower * weight

    # The values are rows, one for each cell and head. An axis of one cell has no second one.
    head = torch.arange(heads, dtype=torch.int32, device=value.device)[:, None]
    above = (row * width + column + start) * heads + head
    below = above + width * (height > 1).int() * heads
    one = (width > 1).int() * heads
    number = torch.stack((above, above + one, below, below + one), 2)
    entry = torch.stack((upper * left, upper * right, lower * left, lower * right), 2)
    entry = entry.to(value.dtype)
    rows = value.flatten(0, 1)
    # Level by level: all rows at once would take the memory of all levels.
    sampled = []
    for level in range(levels):
        part = slice(level * points, (level + 1) * points)
        corners = rows.index_select(0, number[..., part].flatten())
        sampled.append(
            entry[..., part].flatten(2)[:, :, None] @ corners.view(-1, heads, 4 * points, head_dim)
        )
    return sum(sampled[1:], sampled[0]).flatten(1)


def _neighbours(location: Tensor, side: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Finds the two cells of an axis that a sampling point lies between.

    Args:
        location: Between 0 and 1 inside of the level, (Q, heads, points).
        side: Number of cells, (Q, 1, points), int32.

    Returns:
        The first of the two cells, which are inside of the level if it has two, and the share of
        each in the point. A cell that is not beside the point, or not there, has a share of 0.
    """
    position = location * side.to(location.dtype) - 0.5
    # Limited as a whole number: a NaN then has a cell, and stays in the shares.
    first = torch.minimum(position.floor().int().clamp(min=0), (side - 2).clamp(min=0))
    offset = position - first.to(position.dtype)
    near, far = offset.abs(), (offset - 1).abs()
    is_near, is_far = near < 1, (far < 1) & (side > 1)
    return first, (1 - near) * is_near.to(near.dtype), (1 - far) * is_far.to(far.dtype)
