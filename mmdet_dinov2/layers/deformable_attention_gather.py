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
    areas = shapes.prod(2)
    per_image = areas.sum(1, keepdim=True)
    starts = areas.cumsum(1) - areas + per_image.cumsum(0) - per_image
    # Of each query: the first cell of its levels, and their width and height.
    start = starts.int().index_select(0, images)[:, None, :, None]
    sides = shapes.flip(2).int().index_select(0, images)[:, None, :, None]

    position = locations * sides.to(locations.dtype) - 0.5
    lower = position.floor()
    fraction = position - lower
    # The last dimension holds the two neighbours along an axis. They are compared as whole numbers:
    # a NaN then has a cell, and stays in the shares.
    neighbour = torch.stack((lower, lower + 1), -1).int()
    cell = torch.minimum(neighbour.clamp(min=0), sides[..., None] - 1)
    share = torch.stack((1 - fraction, fraction), -1) * (cell == neighbour).to(fraction.dtype)
    (column, row), (share_x, share_y) = cell.unbind(-2), share.unbind(-2)

    # (Q, heads, levels, points, 2, 1) and (..., 1, 2) -> (Q, heads, levels, points * 4)
    row = row * sides[..., :1] + start[..., None]
    number = (row[..., None] + column[..., None, :]).flatten(3)
    entry = ((share_y * weights[..., None])[..., None] * share_x[..., None, :]).flatten(3)
    number = number * heads + torch.arange(heads, dtype=torch.int32, device=value.device).view(
        -1, 1, 1
    )
    rows = value.flatten(0, 1)
    entry = entry.to(value.dtype)
    # Level by level: all rows at once would take the memory of all levels.
    sampled = [
        (
            entry[:, :, level, None]
            @ rows.index_select(0, number[:, :, level].flatten()).view(
                -1, heads, number.shape[-1], head_dim
            )
        )
        for level in range(weights.shape[2])
    ]
    return sum(sampled[1:], sampled[0]).flatten(1)
