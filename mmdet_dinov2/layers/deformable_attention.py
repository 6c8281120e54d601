"""Multi-scale deformable attention (Deformable DETR, arXiv:2010.04159, section 4.1).

One operator with two implementations: ``deformable_attention_pytorch.py``, on any device and in any
floating dtype, and ``deformable_attention_triton.py``, on CUDA. The operator is opaque to
``torch.compile``: neither is traced, and sizes may change without recompilation.
"""

from __future__ import annotations

import functools
import importlib.util
from types import ModuleType

import torch
from torch import Tensor

from . import deformable_attention_pytorch

IMPLEMENTATIONS = ('pytorch', 'triton')


def deformable_attention(
    value: Tensor,
    spatial_shapes: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    implementation: str = 'pytorch',
) -> Tensor:
    """Weighted sum of values at sampling points of several levels.

    Points lie between cells and are interpolated bilinearly; what is outside of a level is zero
    (``grid_sample`` with ``align_corners=False`` and zero padding). Locations, weights and sums are
    in fp32 (float64 for float64 values) whatever the dtype of the values. The gradient of the
    values is summed in fp32 as well and rounded once; with Triton its sums have no fixed order, so
    that it is not bitwise reproducible.

    Args:
        value: Values of all cells, level after level, row by row, shape (B, N, heads, head_dim).
        spatial_shapes: Height and width of each level in cells, shape (levels, 2); the cells of all
            levels add up to N. On CUDA this is not checked, which would wait for the device: a
            level that does not fit counts as zero.
        sampling_locations: Points (x, y) relative to the canvas, (0, 0) is the top left corner and
            (1, 1) the bottom right one, shape (B, Q, heads, levels, points, 2). Points outside are
            allowed.
        attention_weights: Weight of each point, shape (B, Q, heads, levels, points).
        implementation: 'pytorch' or 'triton'.

    Returns:
        Shape (B, Q, heads * head_dim), in the dtype of the values.

    Raises:
        ValueError: If shapes or dtypes do not fit, or the implementation is unknown.
    """
    _check(value, spatial_shapes, sampling_locations, attention_weights, implementation)
    exact = torch.promote_types(value.dtype, torch.float32)
    return torch.ops.mmdet_dinov2.deformable_attention(
        value.contiguous(),
        spatial_shapes.to(value.device, torch.int64).contiguous(),
        sampling_locations.to(exact).contiguous(),
        attention_weights.to(exact).contiguous(),
        implementation,
    )


@functools.cache
def triton_problem(device: torch.device, dtype: torch.dtype) -> str | None:
    """Says why the Triton kernels cannot run, or None if they can.

    They run on CUDA, and in Triton's interpreter (environment variable ``TRITON_INTERPRET=1``) on a
    CPU. The first call for a CUDA device compiles and runs small ones, which shows whether Triton,
    driver and C compiler work together.

    Args:
        device: Where the values are.
        dtype: Their dtype.
    """
    if dtype == torch.float64:
        return 'its kernels do not compute in float64'
    if importlib.util.find_spec('triton') is None:
        return 'the package triton is not installed'
    if device.type == 'cuda':
        return _triton_trial(device)
    from triton import knobs

    if device.type == 'cpu' and knobs.runtime.interpret:
        return None
    return f'its kernels run on CUDA, not on {device.type}'


@functools.cache
def _triton_trial(device: torch.device) -> str | None:
    try:
        value, grad = torch.ones(2, 1, 1, 1, 4, device=device)
        shapes = torch.ones(1, 2, dtype=torch.int64, device=device)
        locations = torch.full((1, 1, 1, 1, 1, 2), 0.5, device=device)
        inputs = (value, shapes, locations, torch.ones_like(locations[..., 0]))
        results = (
            _module('triton').forward(*inputs),
            *_module('triton').backward(grad.flatten(2), *inputs),
        )
        return None if all(r.isfinite().all() for r in results) else 'it computes wrong numbers'
    except Exception as error:  # of the driver, the C compiler, the assembler, Triton itself
        return f'{type(error).__name__}: {str(error).strip() or "no message"}'.splitlines()[0]


def _check(
    value: Tensor, shapes: Tensor, locations: Tensor, weights: Tensor, implementation: str
) -> None:
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f'implementation must be one of {IMPLEMENTATIONS}, got {implementation!r}')
    fits = (
        value.dim() == 4
        and shapes.dim() == 2
        and locations.dim() == 6
        and shapes.shape[1] == locations.shape[-1] == 2
        and weights.shape == locations.shape[:-1]
        and (locations.shape[0], *locations.shape[2:4])
        == (value.shape[0], value.shape[2], shapes.shape[0])
    )
    if not fits:
        raise ValueError(
            'expected value (B, N, heads, head_dim), spatial_shapes (levels, 2), '
            'sampling_locations (B, Q, heads, levels, points, 2) and attention_weights '
            f'(B, Q, heads, levels, points); got {tuple(value.shape)}, {tuple(shapes.shape)}, '
            f'{tuple(locations.shape)} and {tuple(weights.shape)}'
        )
    if not (value.is_floating_point() and locations.is_floating_point()):
        raise ValueError(
            f'values and locations must be floating point, got {value.dtype}, {locations.dtype}'
        )


# ---------------------------------------------------------------------------- operator


@torch.library.custom_op(
    'mmdet_dinov2::deformable_attention',
    mutates_args=(),
    schema='(Tensor value, Tensor spatial_shapes, Tensor sampling_locations, '
    'Tensor attention_weights, str implementation) -> Tensor',
)
def _forward(value, spatial_shapes, sampling_locations, attention_weights, implementation):
    _check_cells(value, spatial_shapes)
    return _module(implementation).forward(
        value, spatial_shapes, sampling_locations, attention_weights
    )


@_forward.register_fake
def _(value, spatial_shapes, sampling_locations, attention_weights, implementation):
    batch, queries = sampling_locations.shape[:2]
    return value.new_empty(batch, queries, value.shape[2] * value.shape[3])


@torch.library.custom_op(
    'mmdet_dinov2::deformable_attention_backward',
    mutates_args=(),
    schema='(Tensor grad, Tensor value, Tensor spatial_shapes, Tensor sampling_locations, '
    'Tensor attention_weights, str implementation) -> (Tensor, Tensor, Tensor)',
)
def _backward(grad, value, spatial_shapes, sampling_locations, attention_weights, implementation):
    return _module(implementation).backward(
        grad.contiguous(), value, spatial_shapes, sampling_locations, attention_weights
    )


@_backward.register_fake
def _(grad, value, spatial_shapes, sampling_locations, attention_weights, implementation):
    return tuple(torch.empty_like(t) for t in (value, sampling_locations, attention_weights))


def _save_for_backward(ctx, inputs, output):
    *tensors, ctx.implementation = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad):
    grad_value, grad_locations, grad_weights = _backward(
        grad, *ctx.saved_tensors, ctx.implementation
    )
    return grad_value, None, grad_locations, grad_weights, None


_forward.register_autograd(_differentiate, setup_context=_save_for_backward)


def _check_cells(value: Tensor, shapes: Tensor) -> None:
    """Runs within the operator: a compiler could not decide it."""
    if shapes.device.type == 'cpu' and (cells := int(shapes.prod(1).sum())) != value.shape[1]:
        raise ValueError(
            f'the levels {shapes.tolist()} have {cells} cells, but there are {value.shape[1]} '
            'values of each image'
        )


def _module(implementation: str) -> ModuleType:
    if implementation == 'pytorch':
        return deformable_attention_pytorch
    # Triton exists on Linux only.
    from . import deformable_attention_triton

    return deformable_attention_triton
