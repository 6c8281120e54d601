"""Interpolation of learned position embeddings, as the published models do it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


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
