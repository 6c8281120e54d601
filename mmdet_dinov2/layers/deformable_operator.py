"""Multi-scale deformable attention (Deformable DETR, arXiv:2010.04159, section 4.1).

The operator has two implementations: ``deformable_attention_pytorch.py`` runs on any device and in
any floating dtype, ``deformable_attention_triton.py`` on CUDA. It is opaque to ``torch.compile``,
which traces neither of them, so that sizes may change without recompilation.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable, Sequence
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
    query_images: Tensor | None = None,
) -> Tensor:
    """Adds up values at sampling points of several levels, with weights.

    Points between cells are interpolated bilinearly; everything outside a level is zero
    (``grid_sample`` with ``align_corners=False`` and zero padding). Locations, weights and sums are
    in fp32 (float64 for float64 values) whatever the dtype of the values. The gradient of the
    values is also summed in fp32 and rounded once. With Triton the order of its sums varies, so it
    is not bitwise reproducible.

    Images of different sizes are streams, image after image: cells and queries of all images in
    one dimension each, without padding between them. A batch of images of one size may keep its
    own dimension.

    Args:
        value: Values of all cells, level after level, row by row, shape (N, heads, head_dim) of all
            images, or (B, N, heads, head_dim).
        spatial_shapes: Height and width of each level in cells, shape (images, levels, 2), or
            (levels, 2) for all images of a batch; the cells add up to N. On CUDA this is not
            checked, because it would wait for the device: a level that does not fit counts as zero.
        sampling_locations: Points (x, y) relative to the level, from (0, 0) at the top left corner
            to (1, 1) at the bottom right one, shape (Q, heads, levels, points, 2), or (B, Q, ...).
            Points may lie outside.
        attention_weights: Weight of each point, shape (Q, heads, levels, points), or (B, Q, ...).
        implementation: 'pytorch' or 'triton'.
        query_images: Number of the image of each query, ascending, shape (Q,); None for a batch.

    Returns:
        Shape (Q, heads * head_dim), or (B, Q, heads * head_dim), in the dtype of the values.

    Raises:
        ValueError: If shapes or dtypes do not fit, or the implementation is unknown.
    """
    inputs = value, spatial_shapes, sampling_locations, attention_weights
    _check(*inputs, query_images, implementation)
    if query_images is None:
        batch, queries = attention_weights.shape[:2]
        query_images = torch.arange(batch, device=value.device)[:, None].expand(-1, queries)
        output = deformable_attention(
            value.flatten(0, 1),
            spatial_shapes.expand(batch, -1, -1),
            sampling_locations.flatten(0, 1),
            attention_weights.flatten(0, 1),
            implementation,
            query_images.flatten(),
        )
        return output.unflatten(0, (batch, queries))
    exact = torch.promote_types(value.dtype, torch.float32)
    return torch.ops.mmdet_dinov2.deformable_attention(
        value.contiguous(),
        spatial_shapes.to(value.device, torch.int64).contiguous(),
        query_images.to(value.device, torch.int64).contiguous(),
        sampling_locations.to(exact).contiguous(),
        attention_weights.to(exact).contiguous(),
        implementation,
    )


@functools.cache
def triton_problem(device: torch.device, dtype: torch.dtype) -> str | None:
    """Returns why the Triton kernels cannot run, or None if they can.

    They run on CUDA, and in Triton's interpreter (environment variable ``TRITON_INTERPRET=1``) on a
    CPU. The first call for a CUDA device compiles and runs the kernels on a small input, which
    shows whether Triton, the driver and the C compiler work together.

    Args:
        device: Where the values are.
        dtype: Their dtype.
    """
    if dtype == torch.float64:
        return 'its kernels do not compute in float64'
    if importlib.util.find_spec('triton') is None:
        return 'the package triton is not installed'
    if device.type == 'cuda':
        return _triton_trial(device, dtype)
    from triton import knobs

    if device.type == 'cpu' and knobs.runtime.interpret:
        return None
    return f'its kernels run on CUDA, not on {device.type}'


@functools.cache
def _triton_trial(device: torch.device, dtype: torch.dtype) -> str | None:
    try:
        value, grad = torch.ones(2, 1, 1, 4, device=device, dtype=dtype)
        shapes = torch.ones(1, 1, 2, dtype=torch.int64, device=device)
        image = torch.zeros(1, dtype=torch.int64, device=device)
        locations = torch.full((1, 1, 1, 1, 2), 0.5, device=device)
        inputs = (value, shapes, image, locations, torch.ones_like(locations[..., 0]))
        results = (
            _module('triton').forward(*inputs),
            *_module('triton').backward(grad.flatten(1), *inputs),
        )
        return None if all(r.isfinite().all() for r in results) else 'its results are non-finite'
    except Exception as error:  # from the driver, the C compiler, the assembler or Triton itself
        return f'{type(error).__name__}: {str(error).strip() or "no message"}'.splitlines()[0]


def _check(
    value: Tensor,
    shapes: Tensor,
    locations: Tensor,
    weights: Tensor,
    query_images: Tensor | None,
    implementation: str,
) -> None:
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f'implementation must be one of {IMPLEMENTATIONS}, got {implementation!r}')
    batch = () if query_images is not None else ('B',)
    expected = dict(
        value=(*batch, 'N', 'heads', 'head_dim'),
        spatial_shapes=('levels', 2) if batch else ('images', 'levels', 2),
        sampling_locations=(*batch, 'Q', 'heads', 'levels', 'points', 2),
        attention_weights=(*batch, 'Q', 'heads', 'levels', 'points'),
    )
    got = [tuple(t.shape) for t in (value, shapes, locations, weights)]
    if query_images is not None:
        expected['query_images'] = ('Q',)
        got.append(tuple(query_images.shape))
    if not _agree(expected.values(), got):
        raise ValueError(
            'expected '
            + ', '.join(f'{name} {_brackets(shape)}' for name, shape in expected.items())
            + f'; got {", ".join(map(_brackets, got))}'
        )
    if not (value.is_floating_point() and locations.is_floating_point()):
        raise ValueError(
            f'values and locations must be floating point, got {value.dtype}, {locations.dtype}'
        )


def _agree(expected: Iterable[tuple], shapes: Sequence[tuple]) -> bool:
    """Returns whether shapes have the expected sizes, the same wherever a name occurs."""
    sizes: dict = {2: 2}
    for names, shape in zip(expected, shapes, strict=True):
        if len(names) != len(shape):
            return False
        if any(sizes.setdefault(name, size) != size for name, size in zip(names, shape)):
            return False
    return True


def _brackets(shape: tuple) -> str:
    return f'({", ".join(map(str, shape))})'


# ---------------------------------------------------------------------------- operator


@torch.library.custom_op(
    'mmdet_dinov2::deformable_attention',
    mutates_args=(),
    schema='(Tensor value, Tensor spatial_shapes, Tensor query_images, Tensor sampling_locations, '
    'Tensor attention_weights, str implementation) -> Tensor',
)
def _forward(value, spatial_shapes, query_images, locations, weights, implementation):
    _check_numbers(value, spatial_shapes, query_images)
    return _module(implementation).forward(value, spatial_shapes, query_images, locations, weights)


@_forward.register_fake
def _(value, spatial_shapes, query_images, locations, weights, implementation):
    return value.new_empty(locations.shape[0], value.shape[1] * value.shape[2])


@torch.library.custom_op(
    'mmdet_dinov2::deformable_attention_backward',
    mutates_args=(),
    schema='(Tensor grad, Tensor value, Tensor spatial_shapes, Tensor query_images, '
    'Tensor sampling_locations, Tensor attention_weights, str implementation) '
    '-> (Tensor, Tensor, Tensor)',
)
def _backward(grad, value, spatial_shapes, query_images, locations, weights, implementation):
    return _module(implementation).backward(
        grad.contiguous(), value, spatial_shapes, query_images, locations, weights
    )


@_backward.register_fake
def _(grad, value, spatial_shapes, query_images, locations, weights, implementation):
    return tuple(torch.empty_like(t) for t in (value, locations, weights))


def _save_for_backward(ctx, inputs, output):
    *tensors, ctx.implementation = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad):
    grad_value, grad_locations, grad_weights = _backward(
        grad, *ctx.saved_tensors, ctx.implementation
    )
    return grad_value, None, None, grad_locations, grad_weights, None


_forward.register_autograd(_differentiate, setup_context=_save_for_backward)


def _check_numbers(value: Tensor, shapes: Tensor, query_images: Tensor) -> None:
    """Checks values, within the operator: a compiler cannot trace what depends on them."""
    if shapes.device.type != 'cpu':
        return
    if (cells := int(shapes.prod(2).sum())) != len(value):
        raise ValueError(
            f'the levels {shapes.tolist()} have {cells} cells, but there are {len(value)} values'
        )
    if len(query_images) and (
        query_images[0] < 0 or query_images[-1] >= len(shapes) or (query_images.diff() < 0).any()
    ):
        raise ValueError(
            f'query_images must be ascending numbers of the {len(shapes)} images, got '
            f'{query_images.tolist()}'
        )


def _module(implementation: str) -> ModuleType:
    if implementation == 'pytorch':
        return deformable_attention_pytorch
    # Triton is available on Linux only.
    from . import deformable_attention_triton

    return deformable_attention_triton
