"""Attention weights of a block, for pictures. Training does not need them."""

from __future__ import annotations

import torch
from torch import Tensor

from .attention import Attention
from .tokens import TokenLayout


def prefix_attention(
    attention: Attention, x: Tensor, layout: TokenLayout, rotary: Tensor | None = None
) -> list[Tensor]:
    """Computes how the first token (CLS) of each image attends to its whole segment.

    Args:
        attention: The attention of a block.
        x: Its input, packed tokens of shape (T, C), normalised.
        layout: Layout of the stream.
        rotary: Table of the stream that turns queries and keys, as for the block.

    Returns:
        For each image a tensor of shape (heads, tokens of the image) whose rows add up to 1. Prefix
        tokens come first, then the patches in row-major order.
    """
    q, k, _ = attention.project(x.to(attention.qkv.weight.dtype), rotary)
    weights = []
    for image, (queries, keys) in enumerate(
        zip(q.split(layout.lengths), k.split(layout.lengths), strict=True)
    ):
        scores = torch.einsum('hd,thd->ht', queries[0], keys) * attention.head_dim**-0.5
        row = scores.float().softmax(-1)
        prefix, patches = row.split((layout.num_prefix, row.shape[1] - layout.num_prefix), 1)
        patches = layout.to_row_major(patches.T, image).T
        weights.append(torch.cat((prefix, patches), 1))
    return weights
