"""Self-attention among the queries of a decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.transformer import MultiheadAttention
from torch import Tensor

from ..layers import dense_attention


class QuerySelfAttention(MultiheadAttention):
    """mmcv's ``MultiheadAttention`` for queries, without a tensor of attention weights.

    Parameters and results are those of mmcv's module, which computes (B, heads, Q, Q) weights in
    fp32. The forward pass of ``nn.MultiheadAttention`` with ``need_weights=False`` does not fit
    either: it would project queries and keys twice, since they have positions and values do not,
    and the mask of each image would have to be repeated for each head.

    Args:
        *args: As for mmcv's module.
        **kwargs: As for mmcv's module.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **{**kwargs, 'batch_first': True})

    def forward(
        self,
        query: Tensor,
        query_pos: Tensor,
        attn_mask: Tensor | None = None,
        group_size: int | None = None,
        identity: Tensor | None = None,
    ) -> Tensor:
        """Adds to each query what it attends to.

        Args:
            query: Shape (B, Q, C).
            query_pos: Added to queries and keys, not to values, shape (B, Q, C).
            attn_mask: What :func:`additive_mask` returned for the first M queries; None lets all
                attend to all.
            group_size: Number of queries of each group that follow the M queries of the mask; they
                attend within their group. None: there are none.
            identity: What the result is added to, shape (B, Q, C); ``query`` if None.

        Returns:
            Shape (B, Q, C).
        """
        attended = self.attend(self.project(query, query_pos), attn_mask, group_size)
        return self.output(attended, query if identity is None else identity)

    def project(self, query: Tensor, query_pos: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Computes queries, keys and values of all heads, each of shape (..., C)."""
        attn = self.attn
        dims = attn.embed_dim
        weight, bias = attn.in_proj_weight, attn.in_proj_bias
        # The gradients of pieces of a split are one concatenation, those of slices are more.
        (qk_weight, v_weight), (qk_bias, v_bias) = (
            t.split((2 * dims, dims)) for t in (weight, bias)
        )
        qk = F.linear(query + query_pos, qk_weight, qk_bias)
        return *qk.chunk(2, -1), F.linear(query, v_weight, v_bias)

    def attend(
        self, qkv: Sequence[Tensor], attn_mask: Tensor | None, group_size: int | None
    ) -> Tensor:
        """Computes the part between the linear layers.

        Args:
            qkv: What ``project`` returned, each of shape (B, Q, C).
            attn_mask: As for ``forward``.
            group_size: As for ``forward``.

        Returns:
            Shape (B, Q, C).
        """
        if group_size is None:
            return self._attend(qkv, attn_mask)
        first = attn_mask.shape[-1]
        attended = self._attend([t[:, :first] for t in qkv], attn_mask)
        groups = [t[:, first:].unflatten(1, (-1, group_size)).flatten(0, 1) for t in qkv]
        others = self._attend(groups, None).unflatten(0, (len(attended), -1)).flatten(1, 2)
        return torch.cat((attended, others), 1)

    def output(self, attended: Tensor, identity: Tensor) -> Tensor:
        """Projects what the queries attended to and adds it to them, both of shape (..., C)."""
        return identity + self.dropout_layer(self.proj_drop(self.attn.out_proj(attended)))

    def _attend(self, qkv: Sequence[Tensor], attn_mask: Tensor | None) -> Tensor:
        # (B, Q, C) -> (B, heads, Q, C / heads)
        q, k, v = (t.unflatten(-1, (self.attn.num_heads, -1)).transpose(1, 2) for t in qkv)
        dropout = self.attn.dropout if self.training else 0.0
        attended = dense_attention(q, k, v, attn_mask=attn_mask, dropout_p=dropout)
        return attended.transpose(1, 2).flatten(2)


def additive_mask(hidden: Tensor, query: Tensor) -> Tensor:
    """Makes the mask that attention adds to its scores, once for all layers.

    Kernels on GPUs take no other, and only with rows that begin at multiples of 8 numbers.

    Args:
        hidden: True where a query may not attend, shape (Q, Q) or (B, Q, Q).
        query: Queries, whose dtype is that of the mask outside of autocast.

    Returns:
        0, and -inf where a query may not attend, shape (Q, Q) or (B, 1, Q, Q).
    """
    device = hidden.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else query.dtype
    hidden = hidden if hidden.dim() == 2 else hidden[:, None]
    *rows, width = hidden.shape
    mask = query.new_zeros((*rows, -(-width // 8) * 8), dtype=dtype)[..., :width]
    return mask.masked_fill_(hidden, -torch.inf)
