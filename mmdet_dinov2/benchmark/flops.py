"""Floating-point operations of a model, counted while it runs."""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from mmcv.ops import MultiScaleDeformableAttention
from torch import Tensor, nn
from torch.utils.flop_counter import (
    FlopCounterMode,
    flop_registry,
    register_flop_formula,
    sdpa_flop_count,
)

from ..models.deformable_attention import DeformableAttention


@dataclass(frozen=True)
class Flops:
    """Numbers of floating-point operations; a multiplication and an addition are two.

    Attributes:
        dense: Matrix products, convolutions and attention, by torch's ``FlopCounterMode``.
        deformable: Sampling of deformable attention, by :func:`deformable_flops`.
    """

    dense: int
    deformable: int

    @property
    def total(self) -> int:
        """All operations."""
        return self.dense + self.deformable


def deformable_flops(num_queries: int, num_heads: int, num_samples: int, head_dim: int) -> int:
    """Counts the operations of a multi-scale deformable attention without its linear layers.

    Every query reads ``num_samples`` values from the maps in each head: levels x points (Deformable
    DETR, arXiv:2010.04159, equation 3). A value is the bilinear mean of 4 cells: 4 multiplications
    and 4 additions per channel. Weighting and adding it takes 2 more. The total is

        10 x queries x heads x samples x channels of a head.

    The few operations per sample that compute the bilinear weights are not counted.

    Args:
        num_queries: Queries of the whole batch.
        num_heads: Attention heads.
        num_samples: Levels times points.
        head_dim: Channels of a head.
    """
    return 10 * num_queries * num_heads * num_samples * head_dim


def count_flops(model: nn.Module, run: Callable[[], object]) -> Flops:
    """Counts the operations of a call.

    As is usual, element-wise operations, normalisations and softmax do not count.

    Args:
        model: The model that is called.
        run: Calls it once. If it also runs a backward pass, the deformable part does not include
            that.
    """
    counter = FlopCounterMode(display=False)
    with _deformable_calls(model) as calls, counter:
        run()
    return Flops(int(counter.get_total_flops()), sum(calls))


@contextlib.contextmanager
def _deformable_calls(model: nn.Module) -> Iterator[list[int]]:
    """Collects the operations of each deformable attention that the body calls."""
    calls: list[int] = []

    def record(module: MultiScaleDeformableAttention, num_queries: int) -> None:
        samples = module.num_levels * module.num_points
        heads = module.num_heads
        calls.append(deformable_flops(num_queries, heads, samples, module.embed_dims // heads))

    def after(module: MultiScaleDeformableAttention, args: tuple, kwargs: dict, output) -> None:
        query = args[0] if args else kwargs['query']
        record(module, query.numel() // query.shape[-1])

    def sample(module: DeformableAttention, value: Tensor, *args: Tensor) -> Tensor:
        sampled = type(module).sample(module, value, *args)
        record(module, len(sampled))
        return sampled

    with contextlib.ExitStack() as stack:
        for module in model.modules():
            # The layers of this project call the parts of the module.
            if isinstance(module, DeformableAttention):
                module.sample = functools.partial(sample, module)
                stack.callback(delattr, module, 'sample')
            elif isinstance(module, MultiScaleDeformableAttention):
                stack.callback(module.register_forward_hook(after, with_kwargs=True).remove)
        yield calls


def _count_cpu_attention(query, key, value, *args, out_shape=None, **kwargs) -> int:
    return sdpa_flop_count(query, key, value)


def _count_varlen_attention(
    query, key, value, cu_seq_q, cu_seq_k, *args, out_val=None, **kwargs
) -> int:
    heads, head_dim = query.shape[1:]
    return sum(
        sdpa_flop_count(
            (1, heads, of_queries, head_dim),
            (1, heads, of_keys, head_dim),
            (1, heads, of_keys, value.shape[-1]),
        )
        for of_queries, of_keys in zip(
            cu_seq_q.diff().tolist(), cu_seq_k.diff().tolist(), strict=True
        )
    )


def _count_linear(x_shape, weight_shape, *args, out_shape=None, **kwargs) -> int:
    return 2 * math.prod(x_shape) * weight_shape[0]


def _register_kernels() -> None:
    """Registers the kernels that torch's counter does not know."""
    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    if on_cpu not in flop_registry:
        register_flop_formula(on_cpu)(_count_cpu_attention)
    importlib.import_module('torch.nn.attention.varlen')  # defines the operation
    # Private, torch 2.11: the counter registers formulas by operation, and this one has no other
    # name.
    varlen = torch.ops.torch_attn._varlen_attn
    if varlen not in flop_registry:
        register_flop_formula(varlen, get_raw=True)(_count_varlen_attention)

    if hasattr(torch.ops.mkldnn, '_linear_pointwise'):
        linear = torch.ops.mkldnn._linear_pointwise
        if linear not in flop_registry:
            register_flop_formula(linear)(_count_linear)


_register_kernels()
