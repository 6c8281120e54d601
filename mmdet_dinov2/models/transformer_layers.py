"""mmdet's layers of encoder and decoder, with recomputed activations and compiled parts."""

from __future__ import annotations

from collections.abc import Sequence

from mmdet.models.layers import (
    DeformableDetrTransformerDecoderLayer,
    DeformableDetrTransformerEncoderLayer,
)
from torch import Tensor

from ..errors import InputError
from ..layers import TokenwiseModule, recompute, tokenwise


class EncoderLayer(TokenwiseModule, DeformableDetrTransformerEncoderLayer):
    """mmdet's encoder layer; attributes are set after it was built.

    Attributes:
        with_cp: Whether activations are recomputed in the backward pass.
        compiled: Whether what follows the attention runs compiled.
    """

    with_cp = False

    def forward(self, *args, **kwargs) -> Tensor:
        """Runs the layer.

        Args:
            query: Stream of cells, shape (T, C).
            query_pos: Their positions, of the same shape.
            **kwargs: Handed to the deformable attention.

        Returns:
            Shape (T, C).
        """
        return recompute.call(self._forward, *args, recompute=self.with_cp, **kwargs)

    def _forward(self, query: Tensor, query_pos: Tensor, **kwargs) -> Tensor:
        query = self.self_attn(query=query, value=query, query_pos=query_pos, **kwargs)
        return self._after_attention(query)

    @tokenwise
    def _after_attention(self, tokens: Tensor) -> Tensor:
        return self.norms[1](self.ffn(self.norms[0](tokens)))


class DecoderLayer(TokenwiseModule, DeformableDetrTransformerDecoderLayer):
    """mmdet's decoder layer; attributes are set after it was built.

    Attributes:
        with_cp: Whether activations are recomputed in the backward pass.
        compiled: Whether what follows the attention to the image runs compiled.
    """

    with_cp = False

    def forward(self, *args, **kwargs) -> Tensor:
        """Runs the layer.

        Args:
            query: Shape (B, Q, C).
            value: Stream of cells, shape (T, C).
            query_pos: Shape of the queries.
            self_attn_mask: True where queries may not attend, shape (Q, Q) or (B, Q, Q).
            **kwargs: Handed to the deformable attention.

        Returns:
            Shape (B, Q, C).
        """
        return recompute.call(self._forward, *args, recompute=self.with_cp, **kwargs)

    def _forward(
        self,
        query: Tensor,
        value: Tensor,
        query_pos: Tensor | None = None,
        self_attn_mask: Tensor | None = None,
        **kwargs,
    ) -> Tensor:
        query = self.self_attn(query=query, query_pos=query_pos, attn_mask=self_attn_mask)
        query = self.cross_attn(
            query=self.norms[0](query), value=value, query_pos=query_pos, **kwargs
        )
        return self._after_attention(query.flatten(0, 1)).view(query.shape)

    @tokenwise
    def _after_attention(self, tokens: Tensor) -> Tensor:
        return self.norms[2](self.ffn(self.norms[1](tokens)))


def set_recomputed(
    layers: Sequence[EncoderLayer | DecoderLayer], with_cp: bool, num_cp: int, owner: str
) -> None:
    """Sets which layers recompute their activations.

    Args:
        layers: All layers.
        with_cp: Whether all do.
        num_cp: How many do, from the first; mmdet's name for it. -1 is none.
        owner: What has the layers, for the message.

    Raises:
        InputError: If there are not so many layers, or both are given.
    """
    if isinstance(num_cp, bool) or not isinstance(num_cp, int) or not -1 <= num_cp <= len(layers):
        raise InputError(
            f'{owner}.num_cp must be the number of layers whose activations are recomputed, from '
            f'-1 (none) to {len(layers)} (all), but is {num_cp!r}'
        )
    if with_cp and num_cp != -1:
        raise InputError(
            f'{owner} has with_cp=True (all layers) and num_cp={num_cp}; leave one of them out'
        )
    for layer in layers if with_cp else layers[: max(num_cp, 0)]:
        layer.with_cp = True
