"""Inputs of deformable attention for tests."""

from __future__ import annotations

import torch
from torch import Tensor

SHAPES = [(3, 5), (2, 2), (1, 1)]


def sampling_inputs(
    batch: int = 2,
    queries: int = 3,
    heads: int = 2,
    dim: int = 4,
    points: int = 2,
    shapes: list[tuple[int, int]] = SHAPES,
    dtype: torch.dtype = torch.float32,
    value_dtype: torch.dtype | None = None,
    device: str = 'cpu',
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Makes values, shapes, locations (a third of them outside) and weights, with gradients."""
    cells = sum(height * width for height, width in shapes)
    value = torch.randn(batch, cells, heads, dim, dtype=dtype).to(value_dtype or dtype)
    locations = torch.rand(batch, queries, heads, len(shapes), points, 2, dtype=dtype) * 1.6 - 0.3
    weights = torch.rand(batch, queries, heads, len(shapes), points, dtype=dtype)
    value, locations, weights = (t.to(device).requires_grad_() for t in (value, locations, weights))
    return value, torch.tensor(shapes, device=device), locations, weights


def stream_inputs(
    shapes: list[list[tuple[int, int]]], queries: list[int], dim: int = 4, device: str = 'cpu'
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Makes values, shapes, locations, weights and image numbers for images of different sizes."""
    alone = [
        sampling_inputs(1, count, dim=dim, shapes=levels, device=device)
        for levels, count in zip(shapes, queries, strict=True)
    ]
    value, locations, weights = (
        torch.cat([inputs[i][0] for inputs in alone]).detach().requires_grad_() for i in (0, 2, 3)
    )
    images = torch.arange(len(shapes)).repeat_interleave(torch.tensor(queries)).to(device)
    return value, torch.tensor(shapes, device=device), locations, weights, images


def with_gradients(output: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Returns the output and the gradients of values, locations and weights."""
    direction = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape)
    leaves = [t for t in inputs if t.requires_grad]
    return output, *torch.autograd.grad(output, leaves, direction.to(output))
