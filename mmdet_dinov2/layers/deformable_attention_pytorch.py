"""Multi-scale deformable attention in PyTorch, forward and backward.

An output row is a sum of value rows, weighted by attention and bilinear interpolation. This is a
product with a sparse matrix that has four entries for each sampling point, and the gradient of the
values is the product with its transpose. Only row numbers and weights of a few images at a time are
kept, whereas ``grid_sample`` makes a row of values for each point. No sum depends on the order in
which threads finish, so all runs give the same bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to this number of cells in an image, a dense matrix product is faster on a CPU than gathering
# rows. (On CUDA, filling the matrix would add in varying order.)
_MAX_DENSE_CELLS = 512
# Images are computed together up to this number of matrix entries: a batch of small images should
# not take many calls, and a batch of large images should not take much memory.
_ENTRIES_AT_ONCE = dict(cpu=2**22, cuda=2**24)
# Gathered rows should stay in the cache of a CPU.
_ROWS_AT_ONCE = dict(cpu=2**13, cuda=2**21)


def forward(
    value: Tensor, shapes: Tensor, images: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """Computes the output; see :func:`.deformable_operator.deformable_attention`.

    Args:
        value: Shape (N, heads, head_dim).
        shapes: Height and width of the levels, shape (images, levels, 2).
        images: Image of each query, ascending, shape (Q,).
        locations: Shape (Q, heads, levels, points, 2), fp32 or float64.
        weights: Shape (Q, heads, levels, points), of the same dtype.

    Returns:
        Shape (Q, heads * head_dim), in the dtype of the values.
    """
    output = value.new_zeros(len(weights), value.shape[1] * value.shape[2])
    for part in _parts(value, shapes, images, weights):
        near = _Neighbours(locations[part.queries], part.sizes(shapes, images))
        weight = _flat(weights[part.queries])
        matrix = part.matrix(value[part.cells].to(weight.dtype))
        matrix.fill(near.cells(), torch.cat(near.shares(), -1) * weight.repeat(1, 1, 4))
        output[part.queries] = matrix.times_values().flatten(1)
    return output


def backward(
    grad: Tensor, value: Tensor, shapes: Tensor, images: Tensor, locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the gradients of values, locations and weights from that of the output."""
    grad_value, grad_locations, grad_weights = map(torch.zeros_like, (value, locations, weights))
    for part in _parts(value, shapes, images, weights):
        near = _Neighbours(locations[part.queries], part.sizes(shapes, images))
        weight, shares = _flat(weights[part.queries]), near.shares()
        matrix = part.matrix(value[part.cells].to(weight.dtype))
        matrix.fill(near.cells(), torch.cat(shares, -1) * weight.repeat(1, 1, 4))
        to_output = grad[part.queries].to(weight.dtype).view(*weight.shape[:2], -1)
        to_value, to_entries = matrix.gradients(to_output)
        grad_value[part.cells] = to_value
        to_shares = to_entries.chunk(4, -1)
        to_weight = sum(s * g for s, g in zip(shares, to_shares, strict=True))
        grad_weights[part.queries] = to_weight.view_as(grad_weights[part.queries])
        to_x, to_y = near.slopes(to_shares)
        to_xy = torch.stack((to_x * weight, to_y * weight), -1)
        grad_locations[part.queries] = to_xy.view_as(grad_locations[part.queries])
    return grad_value, grad_locations, grad_weights


@dataclass(frozen=True)
class _Part:
    """Consecutive images that are computed at once.

    Attributes:
        images: Their numbers.
        cells: Their values.
        queries: Their queries.
        counts: Number of values and of queries of each of them.
        dense: Whether their matrices are dense.
    """

    images: slice
    cells: slice
    queries: slice
    counts: tuple[tuple[int, int], ...]
    dense: bool

    def sizes(self, shapes: Tensor, images: Tensor) -> Tensor:
        """Returns height and width of the levels, for each query or once if all are equal.

        The shape is (Q, levels, 2) or (1, levels, 2).
        """
        of_part = shapes[self.images]
        if (of_part == of_part[:1]).all():
            return of_part[:1]
        return of_part[images[self.queries] - self.images.start]

    def matrix(self, values: Tensor) -> _Dense | _Sparse:
        """Returns the matrix, still empty, that these values are multiplied with."""
        return (_Dense if self.dense else _Sparse)(values, self.counts)


def _parts(value: Tensor, shapes: Tensor, images: Tensor, weights: Tensor) -> Iterator[_Part]:
    """Yields groups of images that are computed at once; none if there is nothing to compute."""
    if not value.numel() or not weights.numel():
        return
    heads, points = weights.shape[1], weights[0, 0].numel()
    limit = _ENTRIES_AT_ONCE.get(value.device.type, 2**22)
    cells = shapes.prod(2).sum(1).tolist()
    queries = torch.bincount(images, minlength=len(shapes)).tolist()
    counts = list(zip(cells, queries, strict=True))
    dense = [value.device.type == 'cpu' and count <= _MAX_DENSE_CELLS for count in cells]
    entries = [
        heads * of_queries * (of_cells if whole else 4 * points)
        for (of_cells, of_queries), whole in zip(counts, dense, strict=True)
    ]
    first = 0
    while first < len(counts):
        last = first + 1
        while (
            last < len(counts)
            and dense[last] == dense[first]
            and sum(entries[first : last + 1]) <= limit
        ):
            last += 1
        part = slice(first, last)
        if any(queries[part]):
            yield _Part(
                part,
                slice(sum(cells[:first]), sum(cells[:last])),
                slice(sum(queries[:first]), sum(queries[:last])),
                tuple(counts[part]),
                dense[first],
            )
        first = last


def _flat(weights: Tensor) -> Tensor:
    """Flattens (Q, heads, levels, points) to (Q, heads, levels * points)."""
    return weights.flatten(2)


class _Neighbours:
    """The four cells around each sampling point of some images.

    Results have the shape (Q, heads, n). A result for all neighbours has n = 4 * levels * points,
    in the order above left, above right, below left, below right.

    Args:
        locations: Shape (Q, heads, levels, points, 2).
        sizes: Height and width of the levels, shape (Q, levels, 2) or (1, levels, 2).
    """

    def __init__(self, locations: Tensor, sizes: Tensor) -> None:
        points = locations.shape[3]
        areas = sizes.prod(2)
        starts = areas.cumsum(1) - areas
        # (Q or 1, levels) -> (Q or 1, 1, levels * points)
        height, width, start = (
            n.repeat_interleave(points, 1)[:, None] for n in (*sizes.unbind(2), starts)
        )
        self.columns, self.start = width.int(), start.int()
        x, y = locations.flatten(2, 3).unbind(-1)
        self.y = _Axis(y, height.to(y.dtype))
        self.x = _Axis(x, width.to(x.dtype))

    def cells(self) -> Tensor:
        """Returns the numbers of the cells within the image, clamped to the level."""
        rows = [y * self.columns + self.start for y in self.y.cells]
        return torch.cat([y + x for y in rows for x in self.x.cells], -1)

    def shares(self) -> list[Tensor]:
        """Returns the share of each neighbour, zero where it lies outside."""
        return [y * x for y in self.y.shares for x in self.x.shares]

    def slopes(self, to_shares: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Computes the gradients of the locations (x, y) from those of the shares."""
        above_left, above_right, below_left, below_right = to_shares
        (above, below), (left, right) = self.y.shares, self.x.shares
        (d_above, d_below), (d_left, d_right) = self.y.slopes, self.x.slopes
        to_x = above * (d_left * above_left + d_right * above_right)
        to_x += below * (d_left * below_left + d_right * below_right)
        to_y = left * (d_above * above_left + d_below * below_left)
        to_y += right * (d_above * above_right + d_below * below_right)
        return to_x, to_y


class _Axis:
    """The two neighbours of each point along one axis.

    Attributes:
        cells: Numbers of the lower and the upper neighbour, clamped to the level.
        shares: Their shares, zero outside the level.
        slopes: Derivatives of the shares with respect to the location.
    """

    def __init__(self, location: Tensor, size: Tensor) -> None:
        position = location * size - 0.5
        lower = position.floor()
        fraction = position - lower
        upper = lower + 1
        last = size - 1
        zero = torch.zeros_like(last)
        # A NaN has no cell. It stays in the shares and so reaches the result.
        clamped = [torch.clamp(c.nan_to_num(), zero, last) for c in (lower, upper)]
        inside = [(a == b).to(b.dtype) for a, b in zip(clamped, (lower, upper), strict=True)]
        self.cells = [c.int() for c in clamped]
        self.shares = [(1 - fraction) * inside[0], fraction * inside[1]]
        self.slopes = [-size * inside[0], size * inside[1]]


class _Dense:
    """A matrix (queries, values) for each image and head.

    Args:
        values: Shape (N, heads, head_dim), image after image.
        counts: Number of values and of queries of each image.
    """

    def __init__(self, values: Tensor, counts: tuple[tuple[int, int], ...]) -> None:
        # Consecutive images of equal size share one product.
        runs = [(len(list(same)), *size) for size, same in itertools.groupby(counts)]
        self.images, self.num_values, self.num_queries = zip(*runs, strict=True)
        # For each run (images * heads, values of an image, head_dim).
        self.values = self._by_head(values, self.num_values)

    def fill(self, cells: Tensor, entries: Tensor) -> None:
        """Sets the entries of each row; both arguments are (Q, heads, entries)."""
        self.cells = self._by_head(cells.long(), self.num_queries)
        self.matrices = [
            entry.new_zeros(*entry.shape[:2], values.shape[1]).scatter_add_(2, cell, entry)
            for entry, cell, values in zip(
                self._by_head(entries, self.num_queries), self.cells, self.values, strict=True
            )
        ]

    def times_values(self) -> Tensor:
        """Multiplies the matrix with the values, shape (Q, heads, head_dim)."""
        return self._in_order(map(torch.bmm, self.matrices, self.values))

    def gradients(self, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the gradients of values (N, heads, head_dim) and of the entries."""
        grads = self._by_head(grad, self.num_queries)
        to_values = [torch.bmm(m.transpose(1, 2), g) for m, g in zip(self.matrices, grads)]
        to_entries = [
            torch.bmm(g, values.transpose(1, 2)).gather(2, cells)
            for g, values, cells in zip(grads, self.values, self.cells, strict=True)
        ]
        return self._in_order(to_values), self._in_order(to_entries)

    def _by_head(self, rows: Tensor, numbers: tuple[int, ...]) -> list[Tensor]:
        """Splits (rows of all images, heads, n) into runs (images * heads, rows of an image, n)."""
        lengths = [count * number for count, number in zip(self.images, numbers, strict=True)]
        return [
            run.view(count, -1, *rows.shape[1:]).transpose(1, 2).flatten(0, 1)
            for run, count in zip(rows.split(lengths), self.images, strict=True)
        ]

    def _in_order(self, runs: Iterable[Tensor]) -> Tensor:
        """Undoes ``_by_head``."""
        return torch.cat(
            [
                run.unflatten(0, (count, -1)).transpose(1, 2).flatten(0, 1)
                for run, count in zip(runs, self.images, strict=True)
            ]
        )


class _Sparse:
    """One matrix (queries * heads, values * heads) of all images; only the entries are kept.

    Args:
        values: Shape (N, heads, head_dim), image after image.
        counts: Number of values and of queries of each image.
    """

    def __init__(self, values: Tensor, counts: tuple[tuple[int, int], ...]) -> None:
        self.shape = values.shape
        self.values = values.flatten(0, 1)
        self.counts = counts

    def fill(self, cells: Tensor, entries: Tensor) -> None:
        """Sets the entries of each row; both arguments are (Q, heads, entries)."""
        heads = self.shape[1]
        # embedding_bag is faster on int32, which is large enough for nearly every batch.
        options = dict(
            dtype=torch.int32 if len(self.values) < 2**31 else torch.int64, device=cells.device
        )
        num_values, num_queries = (torch.tensor(n, **options) for n in zip(*self.counts))
        first = (num_values.cumsum(0, dtype=options['dtype']) - num_values) * heads
        first = first.repeat_interleave(num_queries, output_size=len(cells))[:, None, None]
        first = first + torch.arange(heads, **options)[:, None]
        self.columns = (cells * heads + first).flatten(0, 1)
        self.entries = entries.flatten(0, 1)

    def times_values(self) -> Tensor:
        """Multiplies the matrix with the values, shape (Q, heads, head_dim)."""
        output = F.embedding_bag(
            self.columns, self.values, mode='sum', per_sample_weights=self.entries
        )
        return output.view(-1, *self.shape[1:])

    def gradients(self, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the gradients of values (N, heads, head_dim) and of the entries."""
        heads = self.shape[1]
        grad = grad.flatten(0, 1)
        to_entries = self._row_products(grad)
        return self._transposed_times(grad).view(self.shape), to_entries.unflatten(0, (-1, heads))

    def _transposed_times(self, grad: Tensor) -> Tensor:
        columns, order = self.columns.flatten().sort(stable=True)
        bounds = torch.arange(len(self.values), dtype=columns.dtype, device=columns.device)
        offsets = torch.searchsorted(columns, bounds)
        entries = self.entries.flatten().index_select(0, order)
        rows = order.div_(self.columns.shape[1], rounding_mode='floor')
        return F.embedding_bag(rows, grad, offsets, mode='sum', per_sample_weights=entries)

    def _row_products(self, grad: Tensor) -> Tensor:
        """Computes the product of the value row and the gradient row of each entry."""
        chunk = max(1, _ROWS_AT_ONCE.get(grad.device.type, 2**13) // self.columns.shape[1])
        products = []
        for columns, rows in zip(self.columns.split(chunk), grad.split(chunk), strict=True):
            gathered = self.values.index_select(0, columns.flatten()).view(*columns.shape, -1)
            products.append(gathered.mul_(rows[:, None]).sum(-1))
        return torch.cat(products)
