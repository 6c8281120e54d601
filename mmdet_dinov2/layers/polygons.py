"""Which points lie inside of polygons."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Pairs of edge and point at once: a few tensors of 16 MiB.
_PAIRS_AT_ONCE = 2**22


def points_in_polygons(points: Tensor, polygons: Sequence[Sequence[float]]) -> Tensor:
    """Returns which points lie inside of each polygon.

    A point is inside if a ray from it crosses the outline an odd number of times. So where a
    polygon overlaps itself twice, it has a hole, as where an outline passes around one.

    Args:
        points: Points (x, y), shape (K, 2).
        polygons: Corners of N polygons as ``x, y, x, y, ...`` in the unit of the points, numbers or
            arrays. The last corner is joined to the first one.

    Returns:
        Bool, shape (N, K), on the device of the points.
    """
    corners = [torch.as_tensor(polygon, dtype=torch.float64).view(-1, 2) for polygon in polygons]
    owner = torch.repeat_interleave(
        torch.arange(len(corners)), torch.tensor([len(c) for c in corners], dtype=torch.int64)
    )
    crossings = torch.zeros(len(corners), len(points), dtype=torch.int32, device=points.device)
    if not len(owner):
        return crossings.bool()
    edges = torch.cat([torch.cat((c, c.roll(-1, 0)), 1) for c in corners])
    edges = edges.to(points.device, points.dtype, non_blocking=True)
    owner = owner.to(points.device, non_blocking=True)
    x, y = points.T
    size = max(1, _PAIRS_AT_ONCE // max(1, len(points)))
    for (x1, y1, x2, y2), rows in zip(
        (part.T[..., None] for part in edges.split(size)), owner.split(size), strict=True
    ):
        spans = (y1 <= y) != (y2 <= y)
        # Level edges span no point, whatever the quotient is.
        right = x < x1 + (y - y1) * ((x2 - x1) / (y2 - y1))
        crossings.index_add_(0, rows, (spans & right).int())
    return (crossings % 2).bool()
