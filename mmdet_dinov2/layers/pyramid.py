"""One stream of cells for the feature pyramids of images of any size.

The valid cells of all pyramids of a batch form one sequence of shape (T, C), image after image,
level after level, row by row. Whatever works on each cell alone works on this sequence, so padding
costs nothing. Only the look-up of neighbours needs to know where a cell lies.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from .padding import Size, valid_cells


class PyramidLayout:
    """Where each cell of a stream of pyramids comes from.

    Nothing here waits for the device: the numbers of cells follow from the image sizes, and tensors
    with an entry for each cell are computed on the device.

    Args:
        img_shapes: Valid height and width of each image in pixels.
        strides: Pixels per cell of each level, finest first.
        device: Device of the stream.

    Attributes:
        shift_in_cells: How far sampling points are moved off the kinks of the bilinear
            interpolation. Rounding errors of coordinates are a hundred times smaller.
    """

    shift_in_cells = 2.0**-10

    def __init__(
        self, img_shapes: Sequence[Size], strides: Sequence[float], device: torch.device
    ) -> None:
        self.img_shapes = [tuple(shape) for shape in img_shapes]
        self.strides = tuple(strides)
        self.device = device
        levels = [valid_cells(self.img_shapes, stride) for stride in self.strides]
        # Rows and columns of each level of each image.
        self.grids: list[tuple[Size, ...]] = list(zip(*levels, strict=True))

    @cached_property
    def lengths(self) -> list[int]:
        """Number of cells of each image."""
        return [sum(rows * cols for rows, cols in grids) for grids in self.grids]

    @cached_property
    def runs(self) -> list[tuple[int, Size]]:
        """Neighbouring images with the same grid on the finest level: how many, and the grid."""
        finest = itertools.groupby(grids[0] for grids in self.grids)
        return [(len(list(images)), grid) for grid, images in finest]

    @cached_property
    def shapes(self) -> Tensor:
        """Rows and columns of each level, shape (images, levels, 2), int64."""
        return torch.tensor(self.grids).to(self.device, non_blocking=True)

    @cached_property
    def columns_rows(self) -> Tensor:
        """Columns and rows of each level, shape (images, levels, 2), int64."""
        return self.shapes.flip(2)

    @cached_property
    def extents(self) -> Tensor:
        """Width and height of each image relative to its grids, shape (images, levels, 2), fp32.

        They are at most 1: the border may cut the last column and the last row of a grid.
        """
        sides = torch.tensor(self.img_shapes).flip(1).to(self.device, non_blocking=True)
        strides = torch.tensor(self.strides).to(self.device, non_blocking=True)
        return sides[:, None] / (self.columns_rows * strides[:, None])

    @cached_property
    def shifts(self) -> Tensor:
        """Shift (x, y) of ``shift_in_cells``, relative to each grid, (images, levels, 2), fp32."""
        return self.shift_in_cells / self.columns_rows.float()

    @cached_property
    def images(self) -> Tensor:
        """Image of each cell, shape (T,), int64."""
        return torch.div(self._map, len(self.strides), rounding_mode='floor')

    @cached_property
    def levels(self) -> Tensor:
        """Level of each cell, shape (T,), int64."""
        return self._map % len(self.strides)

    @cached_property
    def centers(self) -> Tensor:
        """Centre (x, y) of each cell, relative to its image, shape (T, 2), fp32."""
        # In cells, then relative to the image.
        sizes = (self.columns_rows * self.extents).flatten(0, 1)
        return (self.cells + 0.5) / sizes.index_select(0, self._map)

    @cached_property
    def cells(self) -> Tensor:
        """Column and row of each cell within its level, shape (T, 2), int64."""
        first = self._areas.cumsum(0) - self._areas
        number = torch.arange(sum(self.lengths), device=self.device)
        number = number - first.index_select(0, self._map)
        columns = self.sides[:, 0]
        row = torch.div(number, columns, rounding_mode='floor')
        return torch.stack((number % columns, row), 1)

    @cached_property
    def sides(self) -> Tensor:
        """Number of columns and rows of the level of each cell, shape (T, 2), int64."""
        return self.columns_rows.flatten(0, 1).index_select(0, self._map)

    def pack(self, maps: Sequence[Tensor]) -> Tensor:
        """Collects the valid cells of padded maps.

        Args:
            maps: Maps of shape (images, C, H_l, W_l) with the grids in their top left corner.

        Returns:
            Shape (T, C).
        """
        # (images, C, H_l, W_l) of all levels -> (images * sum of H_l * W_l, C)
        cells = torch.cat([m.flatten(2) for m in maps], 2).transpose(1, 2).flatten(0, 1)
        sizes = [tuple(m.shape[-2:]) for m in maps]
        if all(list(grids) == sizes for grids in self.grids):
            return cells
        areas = [rows * cols for rows, cols in sizes]
        starts = [sum(areas[:level]) for level in range(len(areas))]
        start, width = (
            torch.tensor(numbers).to(self.device, non_blocking=True)[self.levels]
            for numbers in (starts, [cols for _, cols in sizes])
        )
        column, row = self.cells.unbind(1)
        index = self.images * sum(areas) + start + row * width + column
        return cells.index_select(0, index)

    def finest(self, stream: Tensor) -> Tensor:
        """Returns the cells of the finest level of a stream (T, ...), image after image."""
        sizes = []
        for grids, length in zip(self.grids, self.lengths, strict=True):
            first = math.prod(grids[0])
            sizes += [first, length - first]
        return torch.cat(stream.split(sizes)[::2])

    def pad(self, stream: Tensor, value: float) -> Tensor:
        """Puts the cells of each image into a row of their own.

        Args:
            stream: Shape (T, ...).
            value: Value after the last cell of an image.

        Returns:
            Shape (images, N, ...), where N is the largest number of cells of an image.
        """
        longest = max(self.lengths, default=0)
        if all(length == longest for length in self.lengths):
            return stream.unflatten(0, (len(self.lengths), longest))
        rows = []
        for cells in stream.split(self.lengths):
            behind = (0, 0) * (stream.dim() - 1) + (0, longest - len(cells))
            rows.append(F.pad(cells, behind, value=value))
        return torch.stack(rows)

    def best(self, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Finds the cells with the highest scores in each image.

        Args:
            scores: Shape (T,).
            count: How many to find.

        Returns:
            Their scores, highest first, -inf where an image has fewer cells, (images, count); and
            their places in the stream, int64, of the same shape.
        """
        rows = self.pad(scores, -torch.inf)
        missing = max(0, count - rows.shape[1])
        values, index = F.pad(rows, (0, missing), value=-torch.inf).topk(count, dim=1)
        return values, index + self.starts[:, None]

    @cached_property
    def starts(self) -> Tensor:
        """First cell of each image, shape (images,), int64."""
        starts = [sum(self.lengths[:image]) for image in range(len(self.lengths))]
        return torch.tensor(starts).to(self.device, non_blocking=True)

    @cached_property
    def _areas(self) -> Tensor:
        """Number of cells of each map (image and level)."""
        return self.shapes.prod(2).flatten()

    @cached_property
    def _map(self) -> Tensor:
        """Number of the map of each cell."""
        return torch.repeat_interleave(self._areas, output_size=sum(self.lengths))


class GridPyramidLayout(PyramidLayout):
    """A layout whose coordinates are relative to the grid of each level.

    Each grid spans the image, whatever share of its last row and column lies beyond the border, and
    sampling points are not moved. These are the coordinates of Deformable DETR and its successors
    for an image without padding.

    Args:
        img_shapes: Valid height and width of each image in pixels.
        strides: Nominal pixels per cell of each level, finest first.
        device: Device of the stream.
        grids: Rows and columns of each level, for each image.
    """

    shift_in_cells = 0.0

    def __init__(
        self,
        img_shapes: Sequence[Size],
        strides: Sequence[float],
        device: torch.device,
        grids: Sequence[Sequence[Size]],
    ) -> None:
        super().__init__(img_shapes, strides, device)
        self.grids = [tuple(of_image) for of_image in grids]

    @cached_property
    def extents(self) -> Tensor:
        """Ones, shape (images, levels, 2), fp32: each grid spans the image."""
        return torch.ones(self.shapes.shape, device=self.device)
