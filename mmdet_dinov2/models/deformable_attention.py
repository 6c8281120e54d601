"""mmcv's multi-scale deformable attention on the fastest implementation that runs."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass

import torch
from mmcv.ops import MultiScaleDeformableAttention, get_compiling_cuda_version
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from mmdet.registry import MODELS
from mmengine.logging import print_log
from torch import Tensor, nn

from ..errors import InputError
from ..layers import deformable_attention, triton_problem

IMPLEMENTATIONS = ('auto', 'triton', 'mmcv', 'pytorch')


@dataclass(frozen=True)
class Choice:
    """An implementation of deformable attention.

    Attributes:
        name: 'triton', 'mmcv' or 'pytorch'.
        reason: Why it is the one, for people.
    """

    name: str
    reason: str


def choose_implementation(
    device: torch.device, dtype: torch.dtype = torch.float32, requested: str = 'auto'
) -> Choice:
    """Says which implementation of deformable attention runs, and why.

    The first call for a CUDA device compiles and runs small Triton kernels.

    Args:
        device: Where the values are.
        dtype: Their dtype.
        requested: 'triton': this project's kernels, on CUDA in fp32, fp16 and bf16; they need a C
            compiler such as gcc, but no CUDA compiler. 'mmcv': mmcv's operator, on CUDA where mmcv
            was compiled for it; fp16 and bf16 values are converted to fp32, since it would round
            the sampling locations to the dtype of the values. 'pytorch': everywhere. 'auto': the
            first of these that can run. The first two add gradients in no fixed order, so they do
            not run on CUDA under ``torch.use_deterministic_algorithms(True)``.

    Returns:
        The choice.

    Raises:
        InputError: If the requested implementation is unknown or cannot run.
    """
    return _choose(device, dtype, requested, torch.are_deterministic_algorithms_enabled())


@functools.cache
def _choose(device: torch.device, dtype: torch.dtype, requested: str, fixed_order: bool) -> Choice:
    _known(requested)
    problems = dict(triton=triton_problem(device, dtype), mmcv=_mmcv_problem(device), pytorch=None)
    if fixed_order and device.type == 'cuda':
        unordered = (
            'it adds gradients in no fixed order, and deterministic algorithms are asked for'
        )
        problems.update(triton=unordered, mmcv=unordered)
    if requested != 'auto':
        if problems[requested]:
            raise InputError(
                f'deformable attention cannot run with {requested!r} on {device}: '
                f"{problems[requested]}; 'auto' takes what can"
            )
        return Choice(requested, 'was asked for')
    # Triton's interpreter also runs on a CPU, but nobody would train with it.
    if device.type == 'cuda' and not problems['triton']:
        return Choice('triton', f'its kernels compile and run on {device}')
    excluded = f'triton: {problems["triton"]}' if device.type == 'cuda' else f'{device} is no GPU'
    if not problems['mmcv']:
        version = get_compiling_cuda_version()
        return Choice('mmcv', f'{excluded}; mmcv was compiled with CUDA {version}')
    if device.type == 'cuda':
        excluded += f'; mmcv: {problems["mmcv"]}'
    return Choice('pytorch', excluded)


def _mmcv_problem(device: torch.device) -> str | None:
    if device.type != 'cuda':
        return 'it is an operator for CUDA'
    if get_compiling_cuda_version() == 'not available':
        return 'mmcv was compiled without CUDA'
    return None


@MODELS.register_module()
class DeformableAttention(MultiScaleDeformableAttention):
    """mmcv's ``MultiScaleDeformableAttention`` (arXiv:2010.04159) with a choice of implementation.

    Parameters, their names, initial values and results are those of mmcv's module. Under autocast
    only the values are in low precision: sampling offsets, locations and the softmax are computed
    in fp32, because bf16 places a point no better than to a few hundredths of a cell. (mmcv's
    module rounds the offsets, and its CUDA operator the locations, relative to the whole image.)

    Args:
        *args: As for mmcv's module.
        implementation: 'auto', 'triton', 'mmcv' or 'pytorch'; see :func:`choose_implementation`.
        **kwargs: As for mmcv's module.

    Raises:
        InputError: If the implementation is unknown; in ``forward``, if it cannot run.
    """

    # Of modules that were built as mmcv's, see `use_deformable_attention`.
    implementation = 'auto'

    def __init__(self, *args, implementation: str = 'auto', **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.implementation = _known(implementation)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        reference_points: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
        level_start_index: Tensor | None = None,
        query_images: Tensor | None = None,
        **kwargs,
    ) -> Tensor:
        """Attends to sampling points around the reference points.

        Values and queries of images of different sizes are streams, image after image and without
        padding, when they have no dimension of the batch. A batch of queries may look at a stream
        of values.

        Args:
            query: Shape (B, Q, C), or (Q, B, C) without ``batch_first``; a stream has (Q, C).
            key: Not used, as in mmcv.
            value: Cells of all levels, shape (B, N, C) or (N, B, C); a stream has (N, C). None
                takes the queries.
            identity: What the result is added to; None takes the queries.
            query_pos: Added to the queries, not to the values, shape of the queries.
            key_padding_mask: True at cells that count as zero, shape (B, N), for a batch of values.
            reference_points: Points (x, y) or boxes (cx, cy, w, h) relative to each level, shape
                (B, Q, levels, 2) or (B, Q, levels, 4), without B for a stream of queries.
            spatial_shapes: Height and width of each level, shape (levels, 2); for a stream of
                values those of each image, shape (B, levels, 2).
            level_start_index: Not used; it follows from the shapes.
            query_images: Number of the image of each query of a stream, ascending, shape (Q,).
            **kwargs: Not used, as in mmcv.

        Returns:
            Shape of the queries.

        Raises:
            ValueError: If the reference points are neither points nor boxes, or shapes do not fit.
            InputError: If the requested implementation cannot run.
        """
        value = query if value is None else value
        identity = query if identity is None else identity
        query = query if query_pos is None else query + query_pos
        if not self.batch_first:
            query, value = (t.transpose(0, 1) if t.dim() == 3 else t for t in (query, value))
        value = self.value_proj(value)
        if key_padding_mask is not None:
            value = value.masked_fill(key_padding_mask[..., None], 0.0)
        if value.dim() == 3:
            spatial_shapes = spatial_shapes.expand(len(value), -1, -1)
            value = value.flatten(0, 1)
        value = value.unflatten(-1, (self.num_heads, -1))
        shape = query.shape
        if query.dim() == 3:
            images = torch.arange(len(query), device=query.device)
            query_images = images[:, None].expand(shape[:2]).flatten()
            query, reference_points = query.flatten(0, 1), reference_points.flatten(0, 1)
        with torch.autocast(query.device.type, enabled=False):
            points = self._sampling_points(query, reference_points, spatial_shapes, query_images)
        output = self.output_proj(self._sample(value, spatial_shapes, query_images, *points))
        output = output.view(shape)
        if output.dim() == 3 and not self.batch_first:
            output = output.transpose(0, 1)
        return self.dropout(output) + identity

    def _sampling_points(
        self, query: Tensor, reference_points: Tensor, shapes: Tensor, images: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Locations (Q, heads, levels, points, 2) and weights (Q, heads, levels, points)."""
        points = (self.num_heads, self.num_levels, self.num_points)
        query = query.to(self.sampling_offsets.weight.dtype)
        exact = torch.promote_types(query.dtype, torch.float32)
        offsets = self.sampling_offsets(query).to(exact).unflatten(-1, (*points, 2))
        logits = self.attention_weights(query).to(exact).unflatten(-1, (self.num_heads, -1))
        weights = logits.softmax(-1).unflatten(-1, points[1:])
        # (Q, levels, 2 or 4) -> (Q, 1, levels, 1, 2 or 4)
        reference = reference_points.to(exact)[:, None, :, None]
        if reference.shape[-1] == 2:
            sides = shapes.to(query.device).flip(2)
            offsets = offsets / sides[images][:, None, :, None]
        elif reference.shape[-1] == 4:
            reference, side = reference.split(2, -1)
            offsets = offsets * (0.5 / self.num_points) * side
        else:
            raise ValueError(
                'reference_points must be points (..., levels, 2) or boxes (..., levels, 4), got '
                f'{tuple(reference_points.shape)}'
            )
        return reference + offsets, weights

    def _sample(
        self, value: Tensor, shapes: Tensor, images: Tensor, locations: Tensor, weights: Tensor
    ) -> Tensor:
        chosen = choose_implementation(value.device, value.dtype, self.implementation)
        if value.device.type != 'cpu':
            _log_once(chosen, value.device, value.dtype)
        if chosen.name != 'mmcv':
            return deformable_attention(value, shapes, locations, weights, chosen.name, images)
        return _sample_by_mmcv(value, shapes, images, locations, weights)


@functools.cache
def _log_once(choice: Choice, device: torch.device, dtype: torch.dtype) -> None:
    """Tells what runs, so that a slow choice does not go unnoticed."""
    print_log(
        f'Deformable attention on {device} in {str(dtype).removeprefix("torch.")}: {choice.name} '
        f'({choice.reason})',
        logger='current',
        level=logging.WARNING if choice.name == 'pytorch' else logging.INFO,
    )


def _sample_by_mmcv(
    value: Tensor, shapes: Tensor, images: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """mmcv's operator on each image, because it knows but one size of the levels."""
    areas = shapes.prod(2)
    starts = areas.cumsum(1) - areas
    cells = areas.sum(1).tolist()
    queries = torch.bincount(images, minlength=len(shapes)).tolist()
    of_images = zip(
        value.to(locations.dtype).split(cells),
        shapes,
        starts,
        locations.split(queries),
        weights.split(queries),
        strict=True,
    )
    outputs = [
        MultiScaleDeformableAttnFunction.apply(
            of_image[None].contiguous(), shape, start, x[None].contiguous(), w[None].contiguous(), 1
        )[0]
        for of_image, shape, start, x, w in of_images
        if len(x)
    ]
    return torch.cat(outputs).to(value.dtype) if outputs else value.new_zeros(0, value[0].numel())


def use_deformable_attention(model: nn.Module, implementation: str = 'auto') -> int:
    """Lets all deformable attention of a model run on the implementations of this project.

    mmdet's layers build mmcv's class, without a way to name another one. Its modules become
    :class:`DeformableAttention` in place, with the same parameters.

    Args:
        model: A model of mmdet, or a part of it.
        implementation: See :func:`choose_implementation`.

    Returns:
        The number of modules.

    Raises:
        InputError: If the implementation is unknown.
    """
    _known(implementation)
    modules = [m for m in model.modules() if isinstance(m, MultiScaleDeformableAttention)]
    for module in modules:
        if type(module) is MultiScaleDeformableAttention:
            module.__class__ = DeformableAttention  # which has no state but the next line's
        module.implementation = implementation
    return len(modules)


def _known(implementation: str) -> str:
    if implementation not in IMPLEMENTATIONS:
        raise InputError(
            f'the implementation of deformable attention must be one of {IMPLEMENTATIONS}, '
            f'got {implementation!r}'
        )
    return implementation
