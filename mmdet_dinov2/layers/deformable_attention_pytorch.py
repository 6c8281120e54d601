"""Multi-scale deformable attention in PyTorch, forward and backward.

An output row is a sum of value rows, weighted by attention and bilinear interpolation: a product
with a sparse matrix that has four entries for each sampling point. The gradient of the values is
the product with its transpose. Nothing but row numbers and weights of a few images at a time is
kept, where ``grid_sample`` makes a row of values for each point. No sum depends on the order in
which threads arrive: all runs give the same bits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to so many cells of an image a dense matrix product is faster on a CPU than gathering rows. (On
# CUDA, filling the matrix would add in no fixed order.)
_MAX_DENSE_CELLS = 512
# Images are taken together until their matrix has so many entries: a batch of small images should
# not be many calls, a batch of large ones should not take much memory.
_ENTRIES_AT_ONCE = dict(cpu=2**22, cuda=2**24)
# Gathered rows should stay in the cache of a CPU.
_ROWS_AT_ONCE = dict(cpu=2**13, cuda=2**21)


def forward(value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Computes the output; see :func:`.deformable_attention.deformable_attention`.

    Args:
        value: Shape (B, N, heads, head_dim).
        shapes: Height and width of the levels, shape (levels, 2).
        locations: Shape (B, Q, heads, levels, points, 2), fp32 or float64.
        weights: Shape (B, Q, heads, levels, points), of the same dtype.

    Returns:
        Shape (B, Q, heads * head_dim), in the dtype of the values.
    """
    batch, queries, heads = weights.shape[:3]
    output = value.new_zeros(batch, queries, heads * value.shape[3])
    for part in _parts(value, weights):
        matrix = _matrix(value[part], weights[part])
        near = _Neighbours(locations[part], shapes)
        matrix.fill(near.cells(), torch.cat(near.shares(), -1) * _flat(weights[part]).repeat(1, 4))
        output[part] = matrix.times_values().view_as(output[part])
    return output


def backward(
    grad: Tensor, value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the gradients of values, locations and weights from that of the output."""
    grad_value, grad_locations, grad_weights = map(torch.zeros_like, (value, locations, weights))
    for part in _parts(value, weights):
        matrix = _matrix(value[part], weights[part])
        near = _Neighbours(locations[part], shapes)
        weight, shares = _flat(weights[part]), near.shares()
        matrix.fill(near.cells(), torch.cat(shares, -1) * weight.repeat(1, 4))
        to_value, to_entries = matrix.gradients(grad[part].to(weights.dtype))
        grad_value[part] = to_value.view_as(grad_value[part])
        to_shares = to_entries.chunk(4, -1)
        to_weight = sum(s * g for s, g in zip(shares, to_shares, strict=True))
        grad_weights[part] = to_weight.view_as(grad_weights[part])
        to_x, to_y = near.slopes(to_shares)
        to_xy = torch.stack((to_x * weight, to_y * weight), -1)
        grad_locations[part] = to_xy.view_as(grad_locations[part])
    return grad_value, grad_locations, grad_weights


def _parts(value: Tensor, weights: Tensor) -> list[slice]:
    """Groups of images that are computed at once; none if there is nothing to compute."""
    if not value.numel() or not weights.numel():
        return []
    rows, points = weights[0, ..., 0, 0].numel(), weights[0, 0, 0].numel()
    entries = rows * (value.shape[1] if _is_dense(value) else 4 * points)
    size = max(1, _ENTRIES_AT_ONCE.get(value.device.type, 2**22) // entries)
    return [slice(i, i + size) for i in range(0, len(value), size)]


def _is_dense(value: Tensor) -> bool:
    return value.device.type == 'cpu' and value.shape[1] <= _MAX_DENSE_CELLS


def _flat(weights: Tensor) -> Tensor:
    """(images, Q, heads, levels, points) -> (images * Q * heads, levels * points)."""
    return weights.flatten(3).flatten(0, 2)


class _Neighbours:
    """The four cells around each point of some images.

    All results have a row for each image, query and head, and a column for each point, once for
    each of the neighbours: above left, above right, below left, below right.
    """

    def __init__(self, locations: Tensor, shapes: Tensor) -> None:
        # Sizes are repeated for each point, so that they stand beside the flattened points.
        sizes = shapes.repeat_interleave(locations.shape[4], 0)
        self.columns = sizes[:, 1].int()
        areas = shapes.prod(1)
        self.start = (areas.cumsum(0) - areas).repeat_interleave(locations.shape[4]).int()
        x, y = locations.flatten(0, 2).flatten(1, 2).unbind(-1)
        self.y = _Axis(y, sizes[:, 0].to(y.dtype))
        self.x = _Axis(x, sizes[:, 1].to(x.dtype))

    def cells(self) -> Tensor:
        """Numbers of the cells within the image, clamped to the level where they lie outside."""
        rows = [y * self.columns + self.start for y in self.y.cells]
        return torch.cat([y + x for y in rows for x in self.x.cells], -1)

    def shares(self) -> list[Tensor]:
        """Share of each neighbour, zero where it lies outside."""
        return [y * x for y in self.y.shares for x in self.x.shares]

    def slopes(self, to_shares: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Gradients of the locations (x, y) from those of the shares."""
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
        shares: Their shares, zero outside of the level.
        slopes: Derivatives of the shares with respect to the location.
    """

    def __init__(self, location: Tensor, size: Tensor) -> None:
        position = location * size - 0.5
        lower = position.floor()
        fraction = position - lower
        upper = lower + 1
        last = size - 1
        inside = [((c >= 0) & (c <= last)).to(location.dtype) for c in (lower, upper)]
        zero = torch.zeros_like(last)
        # NaN is no cell; it goes on in the shares.
        self.cells = [torch.clamp(c.nan_to_num(), zero, last).int() for c in (lower, upper)]
        self.shares = [(1 - fraction) * inside[0], fraction * inside[1]]
        self.slopes = [-size * inside[0], size * inside[1]]


def _matrix(value: Tensor, weights: Tensor) -> _Dense | _Sparse:
    kind = _Dense if _is_dense(value) else _Sparse
    return kind(value.to(weights.dtype), weights.shape[1])


class _Dense:
    """The matrix (Q, N) of each image and head."""

    def __init__(self, value: Tensor, queries: int) -> None:
        self.queries = queries
        self.values = value.transpose(1, 2).flatten(0, 1)  # (images * heads, N, head_dim)
        self.heads = value.shape[2]

    def fill(self, cells: Tensor, entries: Tensor) -> None:
        """Sets the entries; both arguments are (images * Q * heads, entries of a row)."""
        self.cells = self._by_head(cells.long())
        count = self.values.shape[1]
        self.matrix = entries.new_zeros(len(self.values), self.queries, count)
        self.matrix.scatter_add_(2, self.cells, self._by_head(entries))

    def times_values(self) -> Tensor:
        """Shape (images, Q, heads, head_dim)."""
        return self._by_query(torch.bmm(self.matrix, self.values))

    def gradients(self, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of values (images, N, heads, head_dim) and entries, as given to ``fill``."""
        grad = self._by_head(grad.reshape(-1, self.values.shape[2]))
        to_values = self._by_query(torch.bmm(self.matrix.transpose(1, 2), grad))
        to_matrix = torch.bmm(grad, self.values.transpose(1, 2))
        to_entries = self._by_query(to_matrix.gather(2, self.cells))
        return to_values, to_entries.flatten(0, 2)

    def _by_head(self, rows: Tensor) -> Tensor:
        """(images * Q * heads, n) -> (images * heads, Q, n)."""
        grouped = rows.view(-1, self.queries, self.heads, rows.shape[1])
        return grouped.transpose(1, 2).flatten(0, 1)

    def _by_query(self, rows: Tensor) -> Tensor:
        """(images * heads, Q, n) -> (images, Q, heads, n)."""
        return rows.unflatten(0, (-1, self.heads)).transpose(1, 2).contiguous()


class _Sparse:
    """One matrix (images * Q * heads, images * N * heads), of which only the entries are kept."""

    def __init__(self, value: Tensor, queries: int) -> None:
        self.queries = queries
        self.shape = value.shape
        self.values = value.flatten(0, 2)

    def fill(self, cells: Tensor, entries: Tensor) -> None:
        """Sets the entries; both arguments are (images * Q * heads, entries of a row)."""
        images, count, heads, _ = self.shape
        # embedding_bag is faster on int32, which nearly every batch fits into.
        options = dict(
            dtype=torch.int32 if len(self.values) < 2**31 else torch.int64, device=cells.device
        )
        first = torch.arange(images, **options)[:, None, None, None] * (count * heads)
        first = first + torch.arange(heads, **options)[:, None]
        grouped = cells.view(images, self.queries, heads, cells.shape[1])
        self.columns = (grouped * heads + first).view_as(cells)
        self.entries = entries

    def times_values(self) -> Tensor:
        """Shape (images * Q * heads, head_dim)."""
        return F.embedding_bag(
            self.columns, self.values, mode='sum', per_sample_weights=self.entries
        )

    def gradients(self, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of values (images * N * heads, head_dim) and entries, as given to ``fill``."""
        grad = grad.reshape(-1, self.shape[3])
        return self._transposed_times(grad), self._row_products(grad)

    def _transposed_times(self, grad: Tensor) -> Tensor:
        columns, order = self.columns.flatten().sort(stable=True)
        bounds = torch.arange(len(self.values), dtype=columns.dtype, device=columns.device)
        offsets = torch.searchsorted(columns, bounds)
        entries = self.entries.flatten().index_select(0, order)
        rows = order.div_(self.columns.shape[1], rounding_mode='floor')
        return F.embedding_bag(rows, grad, offsets, mode='sum', per_sample_weights=entries)

    def _row_products(self, grad: Tensor) -> Tensor:
        """Product of the value row and the gradient row of each entry."""
        chunk = max(1, _ROWS_AT_ONCE.get(grad.device.type, 2**13) // self.columns.shape[1])
        products = []
        for columns, rows in zip(self.columns.split(chunk), grad.split(chunk), strict=True):
            gathered = self.values.index_select(0, columns.flatten()).view(*columns.shape, -1)
            products.append(gathered.mul_(rows[:, None]).sum(-1))
        return torch.cat(products)
