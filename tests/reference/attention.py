"""Attention within segments, for one token at a time."""

import math

import torch
from torch import Tensor


def slow_segment_attention(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    """Computes softmax attention within segments; shapes (T, heads, dim)."""
    out = torch.zeros_like(v)
    start = 0
    for length in lengths:
        for head in range(q.shape[1]):
            keys, values = k[start : start + length, head], v[start : start + length, head]
            for token in range(start, start + length):
                scores = keys @ q[token, head] / math.sqrt(q.shape[-1])
                weights = torch.exp(scores - scores.max())
                out[token, head] = (weights / weights.sum()) @ values
        start += length
    return out
