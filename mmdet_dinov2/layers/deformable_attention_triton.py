"""Multi-scale deformable attention as Triton kernels, forward and backward.

A program computes one head of a block of queries. For each sampling point it gathers the four
neighbouring rows of values, which are contiguous in memory for a head. Nothing is written but the
result. The sizes of the images are arguments at run time. Only the dtype of the values, the numbers
of heads, levels and points, and the head dimension lead to a new compilation.

Import this module only where it is used: Triton is available on Linux only.
"""

# Annotations must stay objects (no `from __future__ import annotations`): Triton's interpreter
# recognises `tl.constexpr` by identity.

import torch
import triton
import triton.language as tl
from torch import Tensor

# Elements of a block of queries x head dimension: 16 bytes of bf16 for each of 128 threads.
_BLOCK_ELEMENTS = 1024
_NUM_WARPS = 4
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def forward(
    value: Tensor, shapes: Tensor, images: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """Computes the output; see :func:`.deformable_operator.deformable_attention`.

    Args:
        value: Shape (N, heads, head_dim), contiguous, fp32, fp16 or bf16.
        shapes: Height and width of the levels, shape (images, levels, 2), contiguous, int64.
        images: Image of each query, in any order, shape (Q,), int64.
        locations: Shape (Q, heads, levels, points, 2), contiguous, fp32.
        weights: Shape (Q, heads, levels, points), contiguous, fp32.

    Returns:
        Shape (Q, heads * head_dim), in the dtype of the values.

    Raises:
        ValueError: If the values are float64.
    """
    _check_dtype(value)
    output = value.new_empty(len(weights), value.shape[1] * value.shape[2])
    if output.numel():
        grid, constants = _launch_plan(value, weights)
        with torch.cuda.device_of(value):
            _forward_kernel[grid](
                value,
                shapes,
                _starts(shapes),
                images,
                locations,
                weights,
                output,
                len(weights),
                len(value),
                **constants,
            )
    return output


def backward(
    grad: Tensor, value: Tensor, shapes: Tensor, images: Tensor, locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the gradients of values, locations and weights from that of the output."""
    _check_dtype(value)
    # Many queries add to the same value: in fp32, by atomic additions.
    grad_value = torch.zeros_like(value, dtype=torch.float32)
    grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
    if grad.numel():
        grid, constants = _launch_plan(value, weights)
        with torch.cuda.device_of(value):
            _backward_kernel[grid](
                grad,
                value,
                shapes,
                _starts(shapes),
                images,
                locations,
                weights,
                grad_value,
                grad_locations,
                grad_weights,
                len(weights),
                len(value),
                **constants,
            )
    return grad_value.to(value.dtype), grad_locations, grad_weights


def _check_dtype(value: Tensor) -> None:
    if value.dtype not in _DTYPES:
        raise ValueError(
            f'the Triton kernels need values in one of {_DTYPES}, got {value.dtype}; '
            "use implementation='pytorch'"
        )


def _starts(shapes: Tensor) -> Tensor:
    """Returns the first value of each level of each image, shape (images, levels)."""
    areas = shapes.prod(2)
    return (areas.flatten().cumsum(0) - areas.flatten()).view(areas.shape)


def _launch_plan(value: Tensor, weights: Tensor) -> tuple[tuple[int], dict]:
    """Returns grid and constants of a launch."""
    queries, heads, levels, points = weights.shape
    dim = value.shape[2]
    block_dim = triton.next_power_of_2(dim)
    block_queries = max(1, _BLOCK_ELEMENTS // block_dim)
    constants = dict(
        HEADS=heads,
        LEVELS=levels,
        POINTS=points,
        DIM=dim,
        BLOCK_QUERIES=block_queries,
        BLOCK_DIM=block_dim,
        num_warps=_NUM_WARPS,
    )
    return (heads * triton.cdiv(queries, block_queries),), constants


@triton.jit
def _program(program, HEADS: tl.constexpr, BLOCK_QUERIES: tl.constexpr):
    """Returns head and queries of a program. Heads vary fastest: they share cache lines."""
    query = (program // HEADS).to(tl.int64) * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    return program % HEADS, query


@triton.jit
def _level(shapes_ptr, starts_ptr, map_number, exists, num_values):
    """Returns height, width and first value of a level, and whether it can be read, per query."""
    height = tl.load(shapes_ptr + 2 * map_number, mask=exists, other=0).to(tl.int32)
    width = tl.load(shapes_ptr + 2 * map_number + 1, mask=exists, other=0).to(tl.int32)
    start = tl.load(starts_ptr + map_number, mask=exists, other=0)
    # A level that does not fit would be read from beyond the values.
    return height, width, start, exists & (start + height * width <= num_values)


@triton.jit
def _neighbours(location, size):
    """Returns the number of the lower neighbour and the distance from it."""
    size = size.to(tl.float32)
    position = location * size - 0.5
    # Points far outside would overflow an integer. At -2 and size + 1, no neighbour is inside.
    position = tl.minimum(tl.maximum(position, -2.0), size + 1.0)
    lower = tl.floor(position)
    return lower.to(tl.int32), position - lower


@triton.jit(do_not_specialize=['num_queries', 'num_values'])
def _forward_kernel(
    value_ptr,
    shapes_ptr,
    starts_ptr,
    images_ptr,
    locations_ptr,
    weights_ptr,
    output_ptr,
    num_queries,
    num_values,
    HEADS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    head, query = _program(tl.program_id(0), HEADS, BLOCK_QUERIES)
    exists = query < num_queries
    image = tl.load(images_ptr + query, mask=exists, other=0)
    channel = tl.arange(0, BLOCK_DIM)
    in_head = channel < DIM
    STRIDE: tl.constexpr = HEADS * DIM
    values = value_ptr + head * DIM
    row = query * HEADS + head
    result = tl.zeros((BLOCK_QUERIES, BLOCK_DIM), dtype=tl.float32)
    for level in range(LEVELS):
        height, width, start, valid = _level(
            shapes_ptr, starts_ptr, image * LEVELS + level, exists, num_values
        )
        for i in tl.static_range(POINTS):
            point = (row * LEVELS + level) * POINTS + i
            x = tl.load(locations_ptr + 2 * point, mask=exists, other=0.0)
            y = tl.load(locations_ptr + 2 * point + 1, mask=exists, other=0.0)
            weight = tl.load(weights_ptr + point, mask=exists, other=0.0)
            left, to_right = _neighbours(x, width)
            top, to_bottom = _neighbours(y, height)
            for j in tl.static_range(2):
                y_share = to_bottom if j == 1 else 1 - to_bottom
                y_inside = valid & (top + j >= 0) & (top + j < height)
                for k in tl.static_range(2):
                    x_share = to_right if k == 1 else 1 - to_right
                    inside = y_inside & (left + k >= 0) & (left + k < width)
                    cell = start + (top + j) * width + left + k
                    rows = tl.load(
                        values + cell[:, None] * STRIDE + channel[None, :],
                        mask=inside[:, None] & in_head[None, :],
                        other=0.0,
                    )
                    result += (weight * y_share * x_share)[:, None] * rows.to(tl.float32)
    outputs = output_ptr + row[:, None] * DIM + channel[None, :]
    mask = exists[:, None] & in_head[None, :]
    tl.store(outputs, result.to(output_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=['num_queries', 'num_values'])
def _backward_kernel(
    grad_ptr,
    value_ptr,
    shapes_ptr,
    starts_ptr,
    images_ptr,
    locations_ptr,
    weights_ptr,
    grad_value_ptr,
    grad_locations_ptr,
    grad_weights_ptr,
    num_queries,
    num_values,
    HEADS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    head, query = _program(tl.program_id(0), HEADS, BLOCK_QUERIES)
    exists = query < num_queries
    image = tl.load(images_ptr + query, mask=exists, other=0)
    channel = tl.arange(0, BLOCK_DIM)
    in_head = channel < DIM
    STRIDE: tl.constexpr = HEADS * DIM
    values = value_ptr + head * DIM
    grads = grad_value_ptr + head * DIM
    row = query * HEADS + head
    mask = exists[:, None] & in_head[None, :]
    # An atomic addition takes 4 adjacent numbers, a load of bf16 would take 8. With 4 in both, rows
    # of values and of their gradient lie in the same registers.
    RUN: tl.constexpr = 4 if BLOCK_DIM >= 4 else BLOCK_DIM
    offsets = tl.max_contiguous(row[:, None] * DIM + channel[None, :], (1, RUN))
    grad = tl.load(grad_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    for level in range(LEVELS):
        height, width, start, valid = _level(
            shapes_ptr, starts_ptr, image * LEVELS + level, exists, num_values
        )
        for i in tl.static_range(POINTS):
            point = (row * LEVELS + level) * POINTS + i
            x = tl.load(locations_ptr + 2 * point, mask=exists, other=0.0)
            y = tl.load(locations_ptr + 2 * point + 1, mask=exists, other=0.0)
            weight = tl.load(weights_ptr + point, mask=exists, other=0.0)
            left, to_right = _neighbours(x, width)
            top, to_bottom = _neighbours(y, height)
            weighted = weight[:, None] * grad
            to_x = tl.zeros((BLOCK_QUERIES,), dtype=tl.float32)
            to_y = tl.zeros((BLOCK_QUERIES,), dtype=tl.float32)
            to_weight = tl.zeros((BLOCK_QUERIES,), dtype=tl.float32)
            for j in tl.static_range(2):
                y_share = to_bottom if j == 1 else 1 - to_bottom
                y_inside = valid & (top + j >= 0) & (top + j < height)
                for k in tl.static_range(2):
                    x_share = to_right if k == 1 else 1 - to_right
                    inside = y_inside & (left + k >= 0) & (left + k < width)
                    cell = start + (top + j) * width + left + k
                    offsets = cell[:, None] * STRIDE + channel[None, :]
                    offsets = tl.max_contiguous(offsets, (1, RUN))
                    mask = inside[:, None] & in_head[None, :]
                    rows = tl.load(values + offsets, mask=mask, other=0.0).to(tl.float32)
                    # The gradient of the share of this neighbour.
                    product = tl.sum(rows * grad, axis=1)
                    to_weight += y_share * x_share * product
                    to_x += (2 * k - 1) * y_share * product
                    to_y += (2 * j - 1) * x_share * product
                    rows = (y_share * x_share)[:, None] * weighted
                    tl.atomic_add(grads + offsets, rows, mask=mask, sem='relaxed')
            tl.store(grad_locations_ptr + 2 * point, to_x * weight * width, mask=exists)
            tl.store(grad_locations_ptr + 2 * point + 1, to_y * weight * height, mask=exists)
            tl.store(grad_weights_ptr + point, to_weight, mask=exists)
