"""Positions of patch tokens as the published models have them: learned or rotary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bicubic import interpolate_grid


def interpolate_pos_embed(
    pos_embed: Tensor, size: tuple[int, int], antialias: bool, offset: float
) -> Tensor:
    """Interpolates a square grid of position embeddings to another grid, in fp32.

    The published models do this in two ways (facebookresearch/dinov2, hub/backbones.py): those
    without registers use ``antialias=False, offset=0.1``, those with registers use
    ``antialias=True, offset=0``. The offset is part of the scale factor of the interpolation,
    (size + offset) / grid, and so shifts every sampling point a little.

    Args:
        pos_embed: Embeddings of a square grid, row-major, shape (1, G * G, C).
        size: Rows and columns of the result.
        antialias: Whether to smooth when the grid shrinks.
        offset: Added to rows and columns in the scale factor; 0 lets the size set the scale.

    Returns:
        Embeddings of shape (rows * cols, C), fp32, row-major.

    Raises:
        ValueError: If the number of embeddings is not a square.
    """
    count = int(pos_embed.shape[1])  # a tensor while torch.jit traces
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(f'position embeddings must form a square grid, got {count} of them')
    if torch.compiler.is_exporting():  # the size may be symbols
        grid = pos_embed[0].float().unflatten(0, (side, side))
        return interpolate_grid(grid, size, antialias, offset)
    if size == (side, side):
        return pos_embed[0].float()
    with torch.autocast(pos_embed.device.type, enabled=False):
        rows, cols = (_axis_weights(side, n, antialias, offset, pos_embed.device) for n in size)
        grid = pos_embed[0].float().unflatten(0, (side, side))
        return torch.einsum('hi,ijc,wj->hwc', rows, grid, cols).flatten(0, 1)


def _axis_weights(
    side: int, size: int, antialias: bool, offset: float, device: torch.device
) -> Tensor:
    """Returns the weights of the old cells in each new cell along one axis, shape (size, side).

    Bicubic interpolation is a matrix along each axis; its columns are the responses to unit
    vectors. Multiplying by it gives the same result as interpolating. The sums of its gradient have
    a fixed order, unlike those of ``F.interpolate`` on CUDA.
    """
    units = torch.eye(side, device=device)[None, None]
    if offset:
        scale = ((size + offset) / side, 1.0)
        out = F.interpolate(units, scale_factor=scale, mode='bicubic', antialias=antialias)
    else:
        out = F.interpolate(units, size=(size, side), mode='bicubic', antialias=antialias)
    if out.shape[2] != size:
        raise ValueError(
            f'pos_embed_offset={offset} gives {out.shape[2]} rows or columns instead of {size}; '
            'it must lie in [0, 1)'
        )
    return out[0, 0]


class RotaryPosition(nn.Module):
    """Rotary positions in two dimensions (DINOv3, arXiv:2508.10104; RoPE, arXiv:2104.09864).

    A patch lies at (y, x), its centre relative to the middle of the image, from -1 to 1 along both
    sides. Each pair of channels of queries and keys is turned by an angle: 2 pi y / period in one
    half of the pairs, 2 pi x / period in the other half. So an attention score depends on the
    difference between two places. The angles are relative to the image, whatever its size and
    aspect ratio.

    DINOv3's pretraining also scales the coordinates of each training batch at random. Detectors
    are trained on images of many sizes, and the published ones on frozen backbones, which are in
    evaluation mode; so there is no such augmentation here.

    Attributes:
        periods: Shape (head_dim / 4,), fp32. They are saved with the model: those of official
            files are rounded.

    Args:
        head_dim: Channels of an attention head, a multiple of 4.
        base: Ratio of the longest period to the shortest, if there were infinitely many; 100 in the
            published models.

    Raises:
        ValueError: If the channels cannot be divided into pairs for both axes.
    """

    def __init__(self, head_dim: int, base: float = 100.0) -> None:
        super().__init__()
        if head_dim % 4:
            raise ValueError(
                f'rotary positions need heads of a multiple of 4 channels, got {head_dim}: choose '
                'other embed_dims or num_heads'
            )
        self.base = base
        self.register_buffer('periods', torch.empty(head_dim // 4, dtype=torch.float32))
        self.reset_periods()

    def reset_periods(self) -> None:
        """Computes the periods anew."""
        count = len(self.periods)
        exponents = torch.arange(count, device=self.periods.device, dtype=torch.float32) / count
        self.periods.copy_(self.base**exponents)

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """Computes the table for :func:`rotate`, in fp32 under autocast too.

        Args:
            grid: Rows and columns of patches.

        Returns:
            Shape (rows * cols, 2, head_dim), fp32, row-major: the cosines of the angles, and their
            sines with the signs of the rotation.
        """
        rows, cols = grid
        with torch.autocast(self.periods.device.type, enabled=False):
            y, x = (
                2 * math.pi * self._coordinates(count)[:, None] / self.periods.float()
                for count in grid
            )
            angles = torch.cat(
                (y[:, None].expand(-1, cols, -1), x[None].expand(rows, -1, -1)), -1
            ).flatten(0, 1)
            cos, sin = angles.cos(), angles.sin()
            return torch.stack((torch.cat((cos, cos), 1), torch.cat((-sin, sin), 1)), 1)

    def unrotated(self) -> Tensor:
        """Returns the row of the table for a token without a place, shape (2, head_dim)."""
        ones = self.periods.new_ones(4 * len(self.periods), dtype=torch.float32)
        return torch.stack((ones, torch.zeros_like(ones)))

    def _coordinates(self, count: int) -> Tensor:
        """Returns the centres of cells between -1 and 1, shape (count,)."""
        cells = torch.arange(count, device=self.periods.device, dtype=torch.float32)
        return (cells + 0.5) / count * 2 - 1


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turns queries or keys by the angles of their tokens, in fp32 under autocast too.

    Channel i of the first half of a head and channel i of the second half are a pair. (Other models
    pair neighbours.)

    Args:
        x: Shape (T, ..., head_dim).
        table: Shape (T, 2, head_dim); see :class:`RotaryPosition`.

    Returns:
        Same shape and dtype as ``x``.
    """
    with torch.autocast(x.device.type, enabled=False):
        for _ in range(x.dim() - 2):
            table = table.unsqueeze(2)
        cos, sin = table.unbind(1)
        exact = x.to(torch.promote_types(x.dtype, table.dtype))
        if torch.compiler.is_compiling():  # which joins the operators itself
            return torch.addcmul(exact * cos, exact.roll(x.shape[-1] // 2, -1), sin).to(x.dtype)
        return _Rotation.apply(exact, cos, sin).to(x.dtype)


class _Rotation(torch.autograd.Function):
    """Rotation with as few passes over the memory as possible; its gradient is another one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin.chunk(2, -1))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, sin.chunk(2, -1)[::-1]), None, None


def _turn(x: Tensor, cos: Tensor, sins: Sequence[Tensor]) -> Tensor:
    turned = x * cos
    for half, other, sin in zip(turned.chunk(2, -1), x.chunk(2, -1)[::-1], sins, strict=True):
        half.addcmul_(other, sin)
    return turned
