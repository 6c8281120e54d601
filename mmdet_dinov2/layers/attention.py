"""Self-attention within the segments of a packed token stream."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

from .dense_attention import dense_attention, needs_fixed_order
from .position import rotate
from .tokens import Segments

# FlashAttention's limits, which varlen_attn inherits.
_MAX_VARLEN_HEAD_DIM = 256


def segment_attention(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, implementation: str = 'auto'
) -> Tensor:
    """Computes softmax attention in which each token sees exactly the tokens of its own segment.

    The result is that of attention over the whole stream with a block-diagonal mask (DINOv2,
    arXiv:2304.07193, section 5), without the work outside the blocks.

    Args:
        q: Queries, shape (T, heads, head_dim).
        k: Keys, same shape.
        v: Values, same shape.
        segments: The segments; their lengths add up to T.
        implementation: 'grouped' makes one dense batch of each run of equal lengths, on any device
            and in any dtype. 'varlen' is one FlashAttention call for all lengths, on CUDA in fp16
            and bf16 (Ampere GPUs and newer). 'auto' chooses 'varlen' where it can run and the
            lengths differ, unless gradients must have the same bits in every run.

    Returns:
        Attended values, shape (T, heads, head_dim).

    Raises:
        ValueError: If the segments do not cover the stream or the implementation is unknown.
    """
    if not isinstance(segments, Segments):  # those of `one_size.py`, whose lengths are symbols
        return segments.attend(q, k, v)
    if segments.num_tokens != len(q):
        raise ValueError(
            f'the segments hold {segments.num_tokens} tokens, the stream {len(q)}: '
            'both must come from the same layout'
        )
    if implementation == 'auto':
        varlen = _varlen_runs(q, segments) and not needs_fixed_order(q, k, v)
        implementation = 'varlen' if varlen else 'grouped'
    if implementation == 'grouped':
        return _attend_grouped(q, k, v, segments)
    if implementation == 'varlen':
        return _attend_varlen(q, k, v, segments)
    raise ValueError(
        f"implementation must be 'auto', 'grouped' or 'varlen', got {implementation!r}"
    )


def _varlen_runs(q: Tensor, segments: Segments) -> bool:
    return (
        len(segments.runs) > 1
        and q.is_cuda
        and q.dtype in (torch.float16, torch.bfloat16)
        and q.shape[-1] <= _MAX_VARLEN_HEAD_DIM
        and q.shape[-1] % 8 == 0
        and _has_flash_attention(q.device)
    )


@functools.cache
def _has_flash_attention(device: torch.device) -> bool:
    """Returns whether the GPU is of the Ampere generation or newer."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _attend_grouped(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    if not segments.runs:
        # The result of an empty stream is part of the graph: every parameter gets a gradient.
        return v
    outputs = []
    start = 0
    for count, length in segments.runs:
        stop = start + count * length
        # (count * length, heads, head_dim) -> (count, heads, length, head_dim)
        batch = [t[start:stop].view(count, length, *t.shape[1:]).transpose(1, 2) for t in (q, k, v)]
        attended = dense_attention(*batch)
        outputs.append(attended.transpose(1, 2).reshape(stop - start, *v.shape[1:]))
        start = stop
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _attend_varlen(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    offsets = segments.offsets(q.device)
    longest = segments.max_length
    return varlen_attn(q, k, v, offsets, offsets, longest, longest)


class UnbiasedKeysLinear(nn.Linear):
    """The projection to queries, keys and values of which the keys have no bias, as in DINOv3.

    With rotary positions, a bias of the keys would matter. The parameter has its published shape,
    (3 * C,). Whatever its middle third holds has no effect and no gradient; it starts as zero, and
    so it stays zero, with weight decay too.

    Args:
        dim: Channels C of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, 3 * dim)

    def reset_parameters(self) -> None:
        """Draws weights and bias as ``nn.Linear`` does; the bias of the keys is zero."""
        super().reset_parameters()
        with torch.no_grad():
            self.bias.chunk(3)[1].zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Projects tokens (..., C) to (..., 3 * C)."""
        queries, _, values = self.bias.chunk(3)
        bias = torch.cat((queries, torch.zeros_like(values), values))
        return F.linear(x, self.weight, bias)


class Attention(nn.Module):
    """Multi-head self-attention of a ViT on a packed token stream.

    Args:
        dim: Channels of a token.
        num_heads: Number of heads; divides ``dim``.
        qkv_bias: Whether queries, keys and values have a bias.
        key_bias: Whether that of the keys is one of them.
    """

    def __init__(
        self, dim: int, num_heads: int, qkv_bias: bool = True, key_bias: bool = True
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f'{dim} channels cannot be split over {num_heads} heads')
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        if qkv_bias and not key_bias:
            self.qkv = UnbiasedKeysLinear(dim)
        else:
            self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, segments: Segments, rotary: Tensor | None = None) -> Tensor:
        """Attends within segments; ``x`` and the result have shape (T, C)."""
        return self.proj(self.attend(*self.project(x, rotary), segments))

    def project(self, x: Tensor, rotary: Tensor | None = None) -> tuple[Tensor, ...]:
        """Computes queries, keys and values of all heads.

        Args:
            x: Tokens, shape (T, C).
            rotary: Table that turns queries and keys, shape (T, 2, head_dim); see
                :func:`.position.rotate`. None turns nothing.

        Returns:
            Three tensors of shape (T, heads, head_dim).
        """
        heads = self.qkv(x).unflatten(1, (3, self.num_heads, self.head_dim))
        if rotary is None:
            return heads.unbind(1)
        # The gradients of pieces of a split are one concatenation, those of slices are more.
        qk, v = heads.split((2, 1), 1)
        return *rotate(qk, rotary).unbind(1), v.squeeze(1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
        """Computes the part between the linear layers, from (T, heads, head_dim) to (T, C)."""
        return segment_attention(q, k, v, segments).flatten(1)
