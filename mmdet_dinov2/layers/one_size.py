"""Layouts of batches whose images all have one size, which need not be a known number.

They take the place of :class:`.TokenLayout` and :class:`.PyramidLayout` where a model is exported.
There, the number of images, their height and their width are symbols of the traced program, so
nothing may depend on their values: no loop over images, no window that may be empty. All cells are
valid, so there is no padding and no mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from .dense_attention import dense_attention
from .pyramid import GridPyramidLayout, PyramidLayout

# A number, or a symbol of the traced program.
Number = int | torch.SymInt


class OneSizeTokenLayout:
    """The token stream of images of one size, prefix first, patches row by row.

    Windows do not change the order of the tokens, as they do in :class:`.TokenLayout`; the patches
    are put in order for each attention within windows.

    Args:
        batch: Number of images.
        grid: Rows and columns of patch tokens.
        num_prefix: Number of tokens before the patch tokens (CLS and registers).
        window_size: Side of an attention window in tokens; 0 for none.
    """

    def __init__(
        self, batch: Number, grid: tuple[Number, Number], num_prefix: int, window_size: int = 0
    ) -> None:
        self.batch = batch
        self.grid = grid
        self.grids = (grid,)
        self.num_prefix = num_prefix
        self.window_size = window_size

    def segments(self, windowed: bool) -> OneSizeSegments | OneSizeWindows:
        """Returns the segments that tokens attend within."""
        return OneSizeWindows(self) if windowed else OneSizeSegments(self)

    def split(self, stream: Tensor) -> Tensor:
        """Divides a stream (T, ...) into images, (B, tokens of an image, ...)."""
        return stream.unflatten(0, (self.batch, self.num_prefix + self.grid[0] * self.grid[1]))

    def by_place(
        self, of_grid: Callable[[tuple[Number, Number]], Tensor], of_prefix: Tensor
    ) -> Tensor:
        """Collects values that depend on the place alone; see :meth:`.TokenLayout.by_place`."""
        prefix = of_prefix.expand(self.num_prefix, *of_prefix.shape)
        values = torch.cat((prefix, of_grid(self.grid)))
        return values.expand(self.batch, *(-1 for _ in values.shape)).flatten(0, 1)

    def to_maps(self, stream: Tensor, size: tuple[Number, Number]) -> Tensor:
        """Turns the patch tokens of the stream (T, C) into feature maps (B, C, *size)."""
        return self.split(stream)[:, self.num_prefix :].transpose(1, 2).unflatten(2, size)


class OneSizeSegments:
    """One segment for each image.

    Args:
        layout: The layout of the stream.
    """

    def __init__(self, layout: OneSizeTokenLayout) -> None:
        self.layout = layout

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attends within segments; see :func:`.attention.segment_attention`."""
        images = (self.layout.split(tokens) for tokens in (q, k, v))
        return _attend(*images).flatten(0, 1)


class OneSizeWindows(OneSizeSegments):
    """One segment for the prefix of each image and one for each of its windows.

    Windows that the border cuts have as many tokens as the others; a mask hides those outside.
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attends within segments; see :func:`.attention.segment_attention`."""
        first = self.layout.num_prefix
        images = [self.layout.split(tokens) for tokens in (q, k, v)]
        prefix = _attend(*(tokens[:, :first] for tokens in images))
        windows = _attend(
            *(self._to_windows(tokens[:, first:]) for tokens in images),
            mask=self._inside(q.device),
        )
        return torch.cat((prefix, self._to_rows(windows)), 1).flatten(0, 1)

    @property
    def _counts(self) -> tuple[Number, Number]:
        """Number of windows in each direction."""
        size = self.layout.window_size
        return tuple((cells + size - 1) // size for cells in self.layout.grid)

    def _to_windows(self, patches: Tensor) -> Tensor:
        """Turns patches (B, rows * cols, heads, C) into windows (B * windows, w * w, heads, C)."""
        size, counts, grid = self.layout.window_size, self._counts, self.layout.grid
        down, right = (count * size - cells for count, cells in zip(counts, grid, strict=True))
        patches = F.pad(patches.unflatten(1, grid), (0, 0, 0, 0, 0, right, 0, down))
        # (B, window rows, w, window columns, w, heads, C)
        patches = patches.unflatten(2, (counts[1], size)).unflatten(1, (counts[0], size))
        return patches.transpose(2, 3).flatten(3, 4).flatten(0, 2)

    def _to_rows(self, windows: Tensor) -> Tensor:
        """Undoes ``_to_windows``."""
        size, counts, (rows, cols) = self.layout.window_size, self._counts, self.layout.grid
        windows = windows.unflatten(1, (size, size)).unflatten(0, (self.layout.batch, *counts))
        patches = windows.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return patches[:, :rows, :cols].flatten(1, 2)

    def _inside(self, device: torch.device) -> Tensor:
        """Returns which tokens of the windows exist, shape (B * windows, 1, 1, w * w)."""
        size, counts, grid = self.layout.window_size, self._counts, self.layout.grid
        rows, cols = (
            (torch.arange(count * size, device=device) < cells).unflatten(0, (count, size))
            for count, cells in zip(counts, grid, strict=True)
        )
        inside = rows[:, None, :, None] & cols[None, :, None, :]
        inside = inside.flatten(2).flatten(0, 1)[None].expand(self.layout.batch, -1, -1)
        return inside.flatten(0, 1)[:, None, None]


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attends among the tokens of each entry of a batch, (B, tokens, heads, C)."""
    q, k, v = (tokens.transpose(1, 2) for tokens in (q, k, v))
    return dense_attention(q, k, v, attn_mask=mask).transpose(1, 2)


class OneSizePyramidLayout:
    """The stream of cells of the pyramids of images of one size.

    Args:
        batch: Number of images.
        size: Height and width of the images in pixels.
        grid: Rows and columns of each level, finest first.
        strides: Pixels per cell of each level.
        device: Device of the stream.
    """

    shift_in_cells = PyramidLayout.shift_in_cells

    def __init__(
        self,
        batch: Number,
        size: tuple[Number, Number],
        grid: Sequence[tuple[Number, Number]],
        strides: Sequence[float],
        device: torch.device,
    ) -> None:
        self.batch = batch
        self.size = size
        self.grid = tuple(grid)
        self.strides = tuple(strides)
        self.device = device

    @property
    def _areas(self) -> list[Number]:
        return [rows * cols for rows, cols in self.grid]

    @property
    def runs(self) -> list[tuple[Number, tuple[Number, Number]]]:
        """The number of images and the grid of their finest level."""
        return [(self.batch, self.grid[0])]

    @cached_property
    def shapes(self) -> Tensor:
        """Rows and columns of each level, shape (images, levels, 2), int64."""
        return self._of_each_image(torch.stack([_pair(sides, self.device) for sides in self.grid]))

    @cached_property
    def columns_rows(self) -> Tensor:
        """Columns and rows of each level, shape (images, levels, 2), int64."""
        return self.shapes.flip(2)

    @cached_property
    def extents(self) -> Tensor:
        """Width and height of the images relative to their grids, (images, levels, 2), fp32."""
        sides = _pair(self.size, self.device).flip(0)
        strides = torch.tensor(self.strides, device=self.device)
        return sides / (self.columns_rows * strides[:, None])

    @cached_property
    def shifts(self) -> Tensor:
        """As of :class:`.PyramidLayout`, shape (images, levels, 2), fp32."""
        return self.shift_in_cells / self.columns_rows.float()

    @cached_property
    def images(self) -> Tensor:
        """Image of each cell, shape (T,), int64."""
        numbers = torch.arange(self.batch, device=self.device)
        return numbers[:, None].expand(-1, sum(self._areas)).flatten()

    @cached_property
    def levels(self) -> Tensor:
        """Level of each cell, shape (T,), int64."""
        levels = [
            torch.full((area,), level, dtype=torch.int64, device=self.device)
            for level, area in enumerate(self._areas)
        ]
        return self._of_each_image(torch.cat(levels)).flatten()

    @cached_property
    def centers(self) -> Tensor:
        """Centre (x, y) of each cell, relative to its image, shape (T, 2), fp32."""
        # In cells, then relative to the image.
        sizes = (self.columns_rows * self.extents)[0]
        return (self.cells + 0.5) / sizes[self.levels]

    @cached_property
    def cells(self) -> Tensor:
        """Column and row of each cell within its level, shape (T, 2), int64."""
        levels = []
        for rows, cols in self.grid:
            x, y = (torch.arange(n, device=self.device) for n in (cols, rows))
            cells = torch.stack((x.expand(rows, -1), y[:, None].expand(-1, cols)), -1)
            levels.append(cells.flatten(0, 1))
        return self._of_each_image(torch.cat(levels)).flatten(0, 1)

    @cached_property
    def sides(self) -> Tensor:
        """Number of columns and rows of the level of each cell, shape (T, 2), int64."""
        return self.columns_rows[0][self.levels]

    def pack(self, maps: Sequence[Tensor]) -> Tensor:
        """Collects the cells of maps (images, C, rows, columns) of the grids, shape (T, C)."""
        return torch.cat([m.flatten(2) for m in maps], 2).transpose(1, 2).flatten(0, 1)

    def finest(self, stream: Tensor) -> Tensor:
        """Returns the cells of the finest level; see :meth:`.PyramidLayout.finest`."""
        images = stream.unflatten(0, (self.batch, sum(self._areas)))
        return images[:, : self._areas[0]].flatten(0, 1)

    def best(self, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Finds the cells with the highest scores; see :meth:`.PyramidLayout.best`."""
        rows = scores.unflatten(0, (self.batch, sum(self._areas)))
        # Always as many as could be missing: whether any are depends on the size.
        values, index = F.pad(rows, (0, count), value=-torch.inf).topk(count, dim=1)
        starts = torch.arange(self.batch, device=self.device) * sum(self._areas)
        return values, index + starts[:, None]

    def _of_each_image(self, values: Tensor) -> Tensor:
        return values[None].expand(self.batch, *(-1 for _ in values.shape))


class OneSizeGridPyramidLayout(OneSizePyramidLayout):
    """A layout whose coordinates are relative to the grids; see :class:`.GridPyramidLayout`."""

    shift_in_cells = GridPyramidLayout.shift_in_cells

    @cached_property
    def extents(self) -> Tensor:
        """Ones, shape (images, levels, 2), fp32: each grid spans the image."""
        return torch.ones_like(self.shapes, dtype=torch.float32)


def _pair(sides: tuple[Number, Number], device: torch.device) -> Tensor:
    # `torch.tensor` would turn symbols into numbers.
    return torch.cat([torch.full((1,), n, dtype=torch.int64, device=device) for n in sides])
