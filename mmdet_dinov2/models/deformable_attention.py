"""mmcv's multi-scale deformable attention for streams, on the fastest implementation that runs."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass

import torch
from mmcv.ops import MultiScaleDeformableAttention, get_compiling_cuda_version

# Private: `mmcv.ops` does not export the operator.
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from mmengine.logging import print_log
from torch import Tensor, nn

from ..errors import InputError
from ..layers import deformable_attention, triton_problem
from ..layers.deformable_attention_gather import gather_attention

IMPLEMENTATIONS = ('auto', 'triton', 'mmcv', 'pytorch')
# The implementation of exported models. Only the exporter sets it: elsewhere it is slower.
GATHER = 'gather'


@dataclass(frozen=True)
class ImplementationChoice:
    """The implementation of deformable attention that runs.

    Attributes:
        name: 'triton', 'mmcv' or 'pytorch'.
        reason: Why it was chosen, for people.
    """

    name: str
    reason: str


def choose_implementation(
    device: torch.device, dtype: torch.dtype = torch.float32, requested: str = 'auto'
) -> ImplementationChoice:
    """Chooses the implementation of deformable attention.

    The first call for a CUDA device compiles and runs small Triton kernels.

    Args:
        device: Where the values are.
        dtype: Their dtype.
        requested: 'triton': this project's kernels, on CUDA in fp32, fp16 and bf16; they need a C
            compiler such as gcc, but not a CUDA compiler. 'mmcv': mmcv's operator, on CUDA where
            mmcv was compiled for it; fp16 and bf16 values are converted to fp32, since it would
            round the sampling locations to the dtype of the values. 'pytorch': everywhere. 'auto':
            the first of these that can run. The first two add gradients in varying order, so they
            do not run on CUDA under ``torch.use_deterministic_algorithms(True)``.

    Returns:
        The choice and its reason.

    Raises:
        InputError: If the requested implementation is unknown or cannot run.
    """
    return _choose(device, dtype, requested, torch.are_deterministic_algorithms_enabled())


@functools.cache
def _choose(
    device: torch.device, dtype: torch.dtype, requested: str, fixed_order: bool
) -> ImplementationChoice:
    _known(requested)
    problems = dict(triton=triton_problem(device, dtype), mmcv=_mmcv_problem(device), pytorch=None)
    if fixed_order and device.type == 'cuda':
        unordered = 'it adds gradients in varying order, and deterministic algorithms are requested'
        problems.update(triton=unordered, mmcv=unordered)
    if requested != 'auto':
        if problems[requested]:
            raise InputError(
                f'deformable attention cannot run with {requested!r} on {device}: '
                f"{problems[requested]}; 'auto' chooses one that can"
            )
        return ImplementationChoice(requested, 'requested')
    # Triton's interpreter also runs on a CPU, but is far too slow for training.
    if device.type == 'cuda' and not problems['triton']:
        return ImplementationChoice('triton', f'its kernels compile and run on {device}')
    excluded = (
        f'triton: {problems["triton"]}' if device.type == 'cuda' else f'{device} is not a GPU'
    )
    if not problems['mmcv']:
        version = get_compiling_cuda_version()
        return ImplementationChoice('mmcv', f'{excluded}; mmcv was compiled with CUDA {version}')
    if device.type == 'cuda':
        excluded += f'; mmcv: {problems["mmcv"]}'
    return ImplementationChoice('pytorch', excluded)


def _mmcv_problem(device: torch.device) -> str | None:
    if device.type != 'cuda':
        return 'its operator needs CUDA'
    if get_compiling_cuda_version() == 'not available':
        return 'mmcv was compiled without CUDA'
    return None


class DeformableAttention(MultiScaleDeformableAttention):
    """mmcv's ``MultiScaleDeformableAttention`` (arXiv:2010.04159) for images of different sizes.

    Values and queries are streams, image after image and without padding. Parameters, their names,
    initial values and results are those of mmcv's module. Under autocast only the values are in low
    precision. Sampling offsets, locations and the softmax are computed in fp32, because bf16 places
    a point no better than to a few hundredths of a cell. (mmcv's module rounds the offsets, and its
    CUDA operator the locations, relative to the whole image.)

    Args:
        *args: As for mmcv's module.
        implementation: 'auto', 'triton', 'mmcv' or 'pytorch'; see :func:`choose_implementation`.
            The attribute of this name may also be ``GATHER``.
        **kwargs: As for mmcv's module.

    Raises:
        InputError: If the implementation is unknown; in ``forward``, if it cannot run.
    """

    def __init__(self, *args, implementation: str = 'auto', **kwargs) -> None:
        super().__init__(*args, **{**kwargs, 'batch_first': True})
        self.implementation = _known(implementation)

    def forward(
        self,
        query: Tensor,
        value: Tensor,
        query_pos: Tensor,
        reference_points: Tensor,
        spatial_shapes: Tensor,
        query_images: Tensor,
        identity: Tensor | None = None,
    ) -> Tensor:
        """Adds to each query what it samples around its reference points.

        Args:
            query: Shape (Q, C).
            value: Cells of all levels of all images, shape (N, C).
            query_pos: Added to the queries, not to the values, shape (Q, C).
            reference_points: Points (x, y) or boxes (cx, cy, w, h) relative to each level, shape
                (Q, levels, 2) or (Q, levels, 4).
            spatial_shapes: Height and width of each level in cells, shape (images, levels, 2).
            query_images: Number of the image of each query, ascending, shape (Q,).
            identity: What the result is added to, shape (Q, C); ``query`` if None.

        Returns:
            Shape (Q, C).

        Raises:
            ValueError: If the reference points are neither points nor boxes, or shapes do not fit.
            InputError: If the requested implementation cannot run.
        """
        sides = None
        if reference_points.shape[-1] == 2:
            sides = spatial_shapes.to(query.device).flip(2)[query_images]
        points = self.points(query, query_pos, reference_points, sides)
        sampled = self.sample(self.values(value), spatial_shapes, query_images, *points)
        return self.output(sampled, query if identity is None else identity)

    def exact_layers(self) -> tuple[nn.Module, ...]:
        """Returns the layers that run in fp32 under autocast."""
        return self.sampling_offsets, self.attention_weights

    def values(self, value: Tensor) -> Tensor:
        """Projects cells to what is sampled, from (N, C) to (N, heads, C / heads)."""
        return self.value_proj(value).unflatten(-1, (self.num_heads, -1))

    def points(
        self,
        query: Tensor,
        query_pos: Tensor,
        reference_points: Tensor,
        sides: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Computes where each query samples and with which weight.

        Args:
            query: As for ``forward``.
            query_pos: As for ``forward``.
            reference_points: As for ``forward``.
            sides: Columns and rows of the levels of each query, shape (Q, levels, 2); not used with
                boxes.

        Returns:
            Locations (Q, heads, levels, points, 2) and weights (Q, heads, levels, points).
        """
        points = (self.num_heads, self.num_levels, self.num_points)
        with torch.autocast(query.device.type, enabled=False):
            query = (query + query_pos).to(self.sampling_offsets.weight.dtype)
            exact = torch.promote_types(query.dtype, torch.float32)
            offsets = self.sampling_offsets(query).to(exact).unflatten(-1, (*points, 2))
            logits = self.attention_weights(query).to(exact).unflatten(-1, (self.num_heads, -1))
            weights = logits.softmax(-1).unflatten(-1, points[1:])
            # (Q, levels, 2 or 4) -> (Q, 1, levels, 1, 2 or 4)
            reference = reference_points.to(exact)[:, None, :, None]
            if reference.shape[-1] == 2:
                offsets = offsets / sides[:, None, :, None]
            elif reference.shape[-1] == 4:
                reference, side = reference.split(2, -1)
                offsets = offsets * (side * (0.5 / self.num_points))
            else:
                raise ValueError(
                    'reference_points must be points (..., levels, 2) or boxes (..., levels, 4), '
                    f'got {tuple(reference_points.shape)}'
                )
            return reference + offsets, weights

    def output(self, sampled: Tensor, identity: Tensor) -> Tensor:
        """Projects what was sampled and adds it to the queries, both of shape (Q, C)."""
        return self.dropout(self.output_proj(sampled)) + identity

    def sample(
        self, value: Tensor, shapes: Tensor, images: Tensor, locations: Tensor, weights: Tensor
    ) -> Tensor:
        """Adds up what each query samples.

        Args:
            value: What ``values`` returned.
            shapes: ``spatial_shapes`` of ``forward``.
            images: ``query_images`` of ``forward``.
            locations: What ``points`` returned first.
            weights: What ``points`` returned second.

        Returns:
            Shape (Q, C).

        Raises:
            InputError: If the requested implementation cannot run.
        """
        if self.implementation == GATHER:
            return gather_attention(value, shapes, images, locations, weights)
        chosen = choose_implementation(value.device, value.dtype, self.implementation)
        if value.device.type != 'cpu':
            _log_once(chosen, value.device, value.dtype)
        if chosen.name != 'mmcv':
            return deformable_attention(value, shapes, locations, weights, chosen.name, images)
        return _sample_by_mmcv(value, shapes, images, locations, weights)


@functools.cache
def _log_once(choice: ImplementationChoice, device: torch.device, dtype: torch.dtype) -> None:
    """Logs what runs, so that a slow choice does not go unnoticed."""
    print_log(
        f'Deformable attention on {device} in {str(dtype).removeprefix("torch.")}: {choice.name} '
        f'({choice.reason})',
        logger='current',
        level=logging.WARNING if choice.name == 'pytorch' else logging.INFO,
    )


def _sample_by_mmcv(
    value: Tensor, shapes: Tensor, images: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """Runs mmcv's operator on each image: it supports one size of the levels per call."""
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


def _known(implementation: str) -> str:
    if implementation not in IMPLEMENTATIONS:
        raise InputError(
            f'the implementation of deformable attention must be one of {IMPLEMENTATIONS}, '
            f'got {implementation!r}'
        )
    return implementation
