"""Self-attention among the queries of a decoder."""

from __future__ import annotations

import torch.nn.functional as F
from mmcv.cnn.bricks.transformer import MultiheadAttention
from torch import Tensor

from ..layers import dense_attention


class QuerySelfAttention(MultiheadAttention):
    """mmcv's ``MultiheadAttention`` for queries, on ``scaled_dot_product_attention``.

    Parameters and results are the same. mmcv's asks PyTorch for the attention weights, which takes
    memory for (B, heads, Q, Q) numbers in fp32, and knows no mask of each image but one of each
    head.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_pos: Tensor | None = None,
        attn_mask: Tensor | None = None,
        **kwargs,
    ) -> Tensor:
        """Attends among queries.

        Args:
            query: Shape (B, Q, C).
            key: The queries, or None.
            value: The queries, or None.
            identity: What the result is added to; None takes the queries.
            query_pos: Added to the queries for attention, not to the values, shape (B, Q, C).
            key_pos: The same, or None.
            attn_mask: True where a query may not attend, shape (Q, Q) or (B, Q, Q).
            **kwargs: Ignored, as in mmcv.

        Returns:
            Shape (B, Q, C).
        """
        attn = self.attn
        identity = query if identity is None else identity
        placed = query if query_pos is None else query + query_pos
        dims = attn.embed_dim
        weight, bias = attn.in_proj_weight, attn.in_proj_bias
        qk = F.linear(placed, weight[: 2 * dims], bias[: 2 * dims])
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
        return identity + self.dropout_layer(self.proj_drop(attended))
