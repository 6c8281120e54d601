"""Interpolation of learned position embeddings, as the published models do it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def interpolate_pos_embed(
    pos_embed: Tensor, size: tuple[int, int], antialias: bool, offset: float
) -> Tensor:
    """Interpolates a square grid of position embeddings to another grid, in fp32.

    The published models do it in two ways (facebookresearch/dinov2, hub/backbones.py): those
    without registers with ``antialias=False, offset=0.1``, those with registers with
    ``antialias=True, offset=0``. The offset enters the scale factor of the interpolation,
    (size + offset) / grid, and so shifts every sampling point a little.

    Args:
        pos_embed: Embeddings of a square grid, row-major, shape (1, G * G, C).
        size: Rows and columns wanted.
        antialias: Whether to smooth when the grid shrinks.
        offset: Added to rows and columns in the scale factor; 0 lets the size set the scale.

    Returns:
        Embeddings of shape (rows * cols, C), fp32, row-major.

    Raises:
        ValueError: If the number of embeddings is not a square.
    """
    side = round(pos_embed.shape[1] ** 0.5)
    if side * side != pos_embed.shape[1]:
        raise ValueError(
            f'position embeddings must form a square grid, got {pos_embed.shape[1]} of them'
        )
    if size == (side, side):
        return pos_embed[0].float()
    grid = pos_embed.float().view(1, side, side, -1).permute(0, 3, 1, 2)
    if offset:
        scale = tuple((n + offset) / side for n in size)
        out = F.interpolate(grid, scale_factor=scale, mode='bicubic', antialias=antialias)
    else:
        out = F.interpolate(grid, size=size, mode='bicubic', antialias=antialias)
    if tuple(out.shape[-2:]) != size:
        raise ValueError(
            f'pos_embed_offset={offset} gives a grid of {tuple(out.shape[-2:])} instead of {size}; '
            'it must lie in [0, 1)'
        )
    return out[0].flatten(1).T
