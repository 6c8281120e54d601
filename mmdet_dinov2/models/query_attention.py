"""Self-attention among the queries of a decoder."""

from __future__ import annotations

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

    def forward(self, query: Tensor, query_pos: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Adds to each query what it attends to.

        Args:
            query: Shape (B, Q, C).
            query_pos: Added to queries and keys, not to values, shape (B, Q, C).
            attn_mask: True where a query may not attend, shape (Q, Q) or (B, Q, Q).

        Returns:
            Shape (B, Q, C).
        """
        attn = self.attn
        dims = attn.embed_dim
        weight, bias = attn.in_proj_weight, attn.in_proj_bias
        qk = F.linear(query + query_pos, weight[: 2 * dims], bias[: 2 * dims])
        v = F.linear(query, weight[2 * dims :], bias[2 * dims :])
        # (B, Q, C) -> (B, heads, Q, C / heads)
        q, k, v = (
            t.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for t in (*qk.chunk(2, -1), v)
        )
        if attn_mask is not None:
            attn_mask = ~attn_mask if attn_mask.dim() == 2 else ~attn_mask[:, None]
        attended = dense_attention(
            q, k, v, attn_mask=attn_mask, dropout_p=attn.dropout if self.training else 0.0
        )
        attended = attn.out_proj(attended.transpose(1, 2).flatten(2))
        return query + self.dropout_layer(self.proj_drop(attended))
