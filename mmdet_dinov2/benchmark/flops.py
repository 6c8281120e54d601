"""Floating-point operations of a model, counted while it runs."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from mmcv.ops import MultiScaleDeformableAttention
from torch import nn
from torch.utils.flop_counter import (
    FlopCounterMode,
    flop_registry,
    register_flop_formula,
    sdpa_flop_count,
)


@dataclass(frozen=True)
class Flops:
    """Floating-point operations; a multiplication and an addition are two.

    Attributes:
        dense: Matrix products, convolutions and attention, by torch's ``FlopCounterMode``.
        deformable: Sampling of deformable attention, by :func:`deformable_flops`.
    """

    dense: int
    deformable: int

    @property
    def total(self) -> int:
        return self.dense + self.deformable


def deformable_flops(num_queries: int, num_heads: int, num_samples: int, head_dim: int) -> int:
    """Operations of one multi-scale deformable attention, its linear layers left out.

    Every query takes, in each head, ``num_samples`` values from the maps: levels x points
    (Deformable DETR, arXiv:2010.04159, equation 3). A value is the bilinear mean of 4 cells, 4
    multiplications and 4 additions per channel; it is weighted and added, 2 more. In all

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

    Element-wise operations, normalisations and softmax are not counted, as is usual.

    Args:
        model: The model that is called.
        run: Calls it once.

    Returns:
        The counts. With a backward pass in ``run`` the deformable part still is that of the forward
        pass.
    """
    counter = FlopCounterMode(display=False)
    with _deformable_calls(model) as calls, counter:
        run()
    return Flops(int(counter.get_total_flops()), sum(calls))


@contextlib.contextmanager
def _deformable_calls(model: nn.Module) -> Iterator[list[int]]:
    """Operations of each deformable attention that is called meanwhile."""
    calls: list[int] = []

    def record(module: MultiScaleDeformableAttention, args: tuple, kwargs: dict, output) -> None:
        query = args[0] if args else kwargs['query']
        samples = module.num_levels * module.num_points
        heads = module.num_heads
        queries = query.numel() // query.shape[-1]
        calls.append(deformable_flops(queries, heads, samples, module.embed_dims // heads))

    hooks = [
        module.register_forward_hook(record, with_kwargs=True)
        for module in model.modules()
        if isinstance(module, MultiScaleDeformableAttention)
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


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


def _register_attention() -> None:
    """Tells torch's counter of the attention kernels that it does not know."""
    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    if on_cpu not in flop_registry:
        register_flop_formula(on_cpu)(_count_cpu_attention)
    try:  # torch >= 2.10
        importlib.import_module('torch.nn.attention.varlen')  # defines the operation

        varlen = torch.ops.torch_attn._varlen_attn
    except (ImportError, AttributeError):
        return
    if varlen not in flop_registry:
        register_flop_formula(varlen, get_raw=True)(_count_varlen_attention)


_register_attention()
