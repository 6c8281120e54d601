"""Bicubic interpolation by its definition."""

import math

import torch
from torch import Tensor

_A = -0.75  # the coefficient of PyTorch's bicubic kernel


def _kernel(t: float) -> float:
    t = abs(t)
    if t <= 1:
        return (_A + 2) * t**3 - (_A + 3) * t**2 + 1
    if t < 2:
        return _A * t**3 - 5 * _A * t**2 + 8 * _A * t - 4 * _A
    return 0.0


def slow_bicubic(grid: Tensor, size: tuple[int, int], scale: tuple[float, float]) -> Tensor:
    """Interpolates (rows, cols, C) to (*size, C) without antialiasing.

    Output cell i samples the input at (i + 0.5) / scale - 0.5; the border is repeated.
    """
    rows, cols = grid.shape[:2]
    out = torch.zeros(*size, grid.shape[2], dtype=torch.float64)
    for i in range(size[0]):
        y = (i + 0.5) / scale[0] - 0.5
        for j in range(size[1]):
            x = (j + 0.5) / scale[1] - 0.5
            for dy in range(-1, 3):
                for dx in range(-1, 3):
                    row, col = math.floor(y) + dy, math.floor(x) + dx
                    weight = _kernel(y - row) * _kernel(x - col)
                    cell = grid[min(max(row, 0), rows - 1), min(max(col, 0), cols - 1)]
                    out[i, j] += weight * cell.double()
    return out
