"""Bicubic interpolation along one axis as a matrix, computed by plain arithmetic.

``interpolate_pos_embed`` takes the same matrix from ``F.interpolate``, which needs the size as a
number. Here the size may be a symbol of a program that is being traced.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The kernels of PyTorch's bicubic interpolation: the plain one, and the one that antialiases.
_PLAIN, _ANTIALIASED = -0.75, -0.5


def bicubic_weights(
    side: int, size: int | torch.SymInt, antialias: bool, offset: float, device: torch.device
) -> Tensor:
    """Returns the weights of the old cells in each new cell along one axis.

    They equal those of PyTorch's ``interpolate(mode='bicubic')`` to rounding, with the scale factor
    (size + offset) / side.

    Args:
        side: Number of old cells.
        size: Number of new cells.
        antialias: Whether to smooth when the number shrinks.
        offset: Added to ``size`` in the scale factor.
        device: Device of the result.

    Returns:
        Shape (size, side), fp32.
    """
    scale = side / (torch.full((1, 1), size, dtype=torch.float32, device=device) + offset)
    center = (torch.arange(size, device=device)[:, None] + 0.5) * scale
    if antialias:
        cells = torch.arange(side, device=device) + 0.5
        weights = _kernel((cells - center) / scale.clamp(min=1), _ANTIALIASED)
        return weights / weights.sum(1, keepdim=True)
    # Two cells beyond either border stand for the cell at the border.
    beyond = torch.arange(-2, side + 2, device=device)
    cells = torch.arange(side, device=device)
    stands_for = (beyond.clamp(0, side - 1)[:, None] == cells).float()
    return _kernel(beyond + 0.5 - center, _PLAIN) @ stands_for


def _kernel(distance: Tensor, a: float) -> Tensor:
    """Returns Keys' cubic convolution kernel (1981) with the parameter ``a``."""
    x = distance.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def interpolate_grid(
    grid: Tensor,
    size: tuple[int | torch.SymInt, int | torch.SymInt],
    antialias: bool,
    offset: float,
) -> Tensor:
    """Interpolates a square grid to another size, which may be symbols.

    A grid that has that size already is left as it is, as by ``interpolate_pos_embed``.

    Args:
        grid: Shape (side, side, C), fp32.
        size: Rows and columns of the result.
        antialias: As for :func:`bicubic_weights`.
        offset: As for :func:`bicubic_weights`.

    Returns:
        Shape (rows * cols, C), fp32, row-major.
    """
    side = grid.shape[0]
    sides = torch.cat([torch.full((1,), n, dtype=torch.int64, device=grid.device) for n in size])
    is_same = (sides == side).all()
    rows, cols = (
        torch.where(
            is_same,
            _same(side, n, grid.device),
            bicubic_weights(side, n, antialias, offset, grid.device),
        )
        for n in size
    )
    by_row = (rows @ grid.flatten(1)).unflatten(1, grid.shape[1:])
    return (cols @ by_row).flatten(0, 1)


def _same(side: int, size: int | torch.SymInt, device: torch.device) -> Tensor:
    """Returns the weights that leave a grid of that size as it is."""
    new = torch.arange(size, device=device)
    return (new[:, None] == torch.arange(side, device=device)).float()
