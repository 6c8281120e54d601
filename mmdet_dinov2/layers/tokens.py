"""One packed stream of tokens for images of any size.

The valid tokens of all images of a batch form one sequence of shape (T, C), image after image. Each
image contributes its prefix tokens (CLS, registers) and then its patch tokens, window by window.
Global attention is attention within image segments of this sequence, and window attention is
attention within window segments of it. Everything else in a block works on each token alone. So no
block partitions, pads or reorders tokens, and padding never enters the network.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]


@dataclass(frozen=True)
class Segments:
    """Consecutive segments of a token stream.

    Attributes:
        runs: Pairs (number of segments, length of each) in the order of the stream. Consecutive
            segments of equal length form one run, so attention over a run is one dense batch.
    """

    runs: tuple[tuple[int, int], ...]

    @classmethod
    def from_lengths(cls, lengths: Sequence[int]) -> Segments:
        """Joins consecutive equal lengths into runs, without empty segments."""
        grouped = itertools.groupby(length for length in lengths if length)
        return cls(tuple((len(list(group)), length) for length, group in grouped))

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Length of each segment."""
        return tuple(length for count, length in self.runs for _ in range(count))

    @property
    def num_tokens(self) -> int:
        return sum(count * length for count, length in self.runs)

    @property
    def max_length(self) -> int:
        return max((length for _, length in self.runs), default=0)

    def offsets(self, device: torch.device) -> Tensor:
        """Returns the start of each segment and the end of the last, int32, (segments + 1,)."""
        return _offsets(self.lengths, device)


# A tensor that is made in inference mode cannot be saved for a backward pass, and what is cached
# outlives the mode.
@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _offsets(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    ends = torch.tensor(lengths, dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return F.pad(ends, (1, 0)).to(device, non_blocking=True)


@lru_cache(maxsize=512)
@torch.inference_mode(False)
def window_order(grid: Grid, window_size: int) -> tuple[tuple[int, ...], Tensor, Tensor]:
    """Returns the order of the patch tokens of one image, window by window.

    Windows are sorted by their number of tokens. So the full ones form one run, and those cut by
    the right and the bottom border form at most three more.

    Args:
        grid: Rows and columns of patch tokens.
        window_size: Side of a window in tokens.

    Returns:
        Length of each window; the row-major index of each token of the stream, shape
        (rows * cols,); and its inverse.
    """
    rows, cols = grid
    index = torch.arange(rows * cols).view(rows, cols)
    windows = [
        index[top : top + window_size, left : left + window_size].flatten()
        for top in range(0, rows, window_size)
        for left in range(0, cols, window_size)
    ]
    windows.sort(key=len, reverse=True)
    order = torch.cat(windows)
    return tuple(len(window) for window in windows), order, order.argsort()


@dataclass(frozen=True)
class TokenLayout:
    """Where each token of a packed stream comes from.

    Attributes:
        grids: Rows and columns of patch tokens of each image.
        num_prefix: Number of tokens before the patch tokens of each image (CLS and registers).
        window_size: Side of an attention window in tokens; 0 keeps the row-major order and has
            image segments only.
    """

    grids: tuple[Grid, ...]
    num_prefix: int
    window_size: int = 0
    _device_cache: dict = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Number of tokens of each image, prefix included."""
        return tuple(self.num_prefix + rows * cols for rows, cols in self.grids)

    @cached_property
    def image_segments(self) -> Segments:
        """One segment for each image: its prefix and patch tokens."""
        return Segments.from_lengths(self.lengths)

    @cached_property
    def window_segments(self) -> Segments:
        """One segment for the prefix of each image and one for each of its windows."""
        if not self.window_size:
            raise ValueError('window segments need a layout with windows, got window_size=0')
        lengths: list[int] = []
        for grid in self.grids:
            lengths += (self.num_prefix, *window_order(grid, self.window_size)[0])
        return Segments.from_lengths(lengths)

    def segments(self, windowed: bool) -> Segments:
        """Returns the segments that tokens attend within."""
        return self.window_segments if windowed else self.image_segments

    def select(self, images: Sequence[int]) -> TokenLayout:
        """Returns the layout of the stream of the given images only."""
        return TokenLayout(tuple(self.grids[i] for i in images), self.num_prefix, self.window_size)

    def token_index(self, images: Sequence[int], device: torch.device) -> Tensor:
        """Returns the stream positions of all tokens of the given images, int64."""
        ends = list(itertools.accumulate(self.lengths))
        spans = [torch.arange(ends[i] - self.lengths[i], ends[i]) for i in images]
        index = torch.cat(spans or [torch.empty(0, dtype=torch.int64)])
        return index.to(device, non_blocking=True)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Position in the stream of the first token of each image, which is its CLS token."""
        return tuple(itertools.accumulate(self.lengths, initial=0))[:-1]

    def patch_index(self, chosen: Sequence[Tensor]) -> Tensor:
        """Returns the stream positions of chosen patches of the first images.

        Args:
            chosen: Which patches are chosen, for each of the first images, bool, row-major, shape
                (rows * cols,), on the CPU.

        Returns:
            Positions, image after image and row-major within an image whatever the windows, int64,
            shape (number of chosen patches,), on the CPU.
        """
        positions = [torch.empty(0, dtype=torch.int64)]
        for image, (start, mask) in enumerate(zip(self.starts, chosen, strict=False)):
            rows = mask.nonzero().flatten()
            if self.window_size:
                rows = self._order(image, mask.device)[1].index_select(0, rows)
            positions.append(rows + start + self.num_prefix)
        return torch.cat(positions)

    def to_stream_order(self, patches: Tensor, image: int) -> Tensor:
        """Reorders the row-major patch tokens (rows * cols, C) of one image for the stream."""
        return self._reordered(patches, image, 0)

    def to_row_major(self, patches: Tensor, image: int) -> Tensor:
        """Undoes ``to_stream_order`` for the patch tokens (rows * cols, C) of one image."""
        return self._reordered(patches, image, 1)

    def by_place(self, of_grid: Callable[[Grid], Tensor], of_prefix: Tensor) -> Tensor:
        """Collects values that depend on nothing but the place of a token in its image.

        Args:
            of_grid: Returns the values of all patch tokens of a grid, row-major, shape
                (rows * cols, ...). It is called once for each distinct grid.
            of_prefix: Value of a prefix token, shape (...).

        Returns:
            Value of each token of the stream, shape (T, ...).
        """
        prefix = of_prefix.expand(self.num_prefix, *of_prefix.shape)
        values: dict[Grid, Tensor] = {}
        for image, grid in enumerate(self.grids):
            if grid not in values:
                values[grid] = torch.cat((prefix, self.to_stream_order(of_grid(grid), image)))
        return torch.cat([values[grid] for grid in self.grids])

    def to_maps(self, stream: Tensor, size: Grid) -> Tensor:
        """Turns the patch tokens of the stream into feature maps.

        Args:
            stream: Packed tokens, shape (T, C).
            size: Rows and columns of the maps, at least those of every grid.

        Returns:
            Maps of shape (B, C, rows, cols), zero outside the grid of each image.
        """
        if all(grid == size for grid in self.grids) and not self.window_size:
            tokens = stream.view(len(self.grids), -1, stream.shape[-1])[:, self.num_prefix :]
            return tokens.transpose(1, 2).reshape(len(self.grids), -1, *size)
        maps = []
        for image, (tokens, (rows, cols)) in enumerate(
            zip(stream.split(self.lengths), self.grids, strict=True)
        ):
            patches = self.to_row_major(tokens[self.num_prefix :], image)
            patches = patches.view(rows, cols, -1).permute(2, 0, 1)
            maps.append(F.pad(patches, (0, size[1] - cols, 0, size[0] - rows)))
        return torch.stack(maps)

    def _reordered(self, patches: Tensor, image: int, which: int) -> Tensor:
        if not self.window_size:
            return patches
        return patches.index_select(0, self._order(image, patches.device)[which])

    def _order(self, image: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns the window order of one image and its inverse on the device, and caches them."""
        key = self.grids[image], device
        if key not in self._device_cache:
            _, order, inverse = window_order(self.grids[image], self.window_size)
            self._device_cache[key] = tuple(
                index.to(device, non_blocking=True) for index in (order, inverse)
            )
        return self._device_cache[key]
