"""The two factors of predicted masks: queries and pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..layers.padding import Size

# Polynomial of second order in the place of a point: 1, u, v, u^2, uv, v^2.
NUM_TERMS = 6
# Places are relative to the box, whose border is at 1. Beyond twice its size they stay the same, as
# squares of what lies far away would outweigh everything else.
_FARTHEST = 2.0


@dataclass(frozen=True)
class PixelEmbedding:
    """Embedding of the cells that the masks of B images consist of, without padding.

    Attributes:
        stream: Embedding of each cell, image after image, row by row, fp32, shape (T, D).
        runs: Neighbouring images with the same rows and columns: how many, and (rows, columns).
        extents: Width and height of each image relative to its grid, shape (B, 2).
    """

    stream: Tensor
    runs: Sequence[tuple[int, Size]]
    extents: Tensor

    @cached_property
    def grids(self) -> list[Size]:
        """Rows and columns of each image."""
        return [grid for count, grid in self.runs for _ in range(count)]

    def of_images(self) -> tuple[Tensor, ...]:
        """Returns the cells of each image, shape (rows * columns, D)."""
        return self.stream.split([rows * cols for rows, cols in self.grids])


def cell_centers(grid: Size, extent: Tensor) -> Tensor:
    """Returns the centre (x, y) of each cell, row by row, relative to the image.

    Args:
        grid: Rows and columns.
        extent: Width and height of the image relative to the grid, shape (2,).

    Returns:
        Shape (rows * columns, 2).
    """
    rows, cols = grid
    y = ((torch.arange(rows, device=extent.device) + 0.5) / (rows * extent[1]))[:, None]
    x = (torch.arange(cols, device=extent.device) + 0.5) / (cols * extent[0])
    return torch.stack((x.expand(rows, -1), y.expand(-1, cols)), -1).flatten(0, 1)


@dataclass(frozen=True)
class MaskQueries:
    """What predicts the masks of N queries.

    Attributes:
        vectors: What the embedding of a cell is multiplied with, shape (N, D).
        terms: Coefficients of the place relative to the box, shape (N, 6).
        boxes: Boxes (cx, cy, w, h) relative to the image, without a gradient, shape (N, 4).
    """

    vectors: Tensor
    terms: Tensor
    boxes: Tensor

    def take(self, index: Tensor | slice) -> MaskQueries:
        """Returns some of the queries."""
        return MaskQueries(self.vectors[index], self.terms[index], self.boxes[index])

    def of_place(self, points: Tensor) -> Tensor:
        """Computes the part of the logits that depends on the place alone.

        Args:
            points: Points (x, y) relative to the image, shape (K, 2), or (N, K, 2) if each query
                has its own.

        Returns:
            Shape (N, K).
        """
        center, side = self.boxes[:, None].split(2, -1)
        place = ((points - center) * (2 / side)).clamp(-_FARTHEST, _FARTHEST)
        u, v = place.unbind(-1)
        a, b, c, d, e, f = self.terms.unsqueeze(-1).unbind(1)
        return a + u * (b + d * u + e * v) + v * (c + f * v)
