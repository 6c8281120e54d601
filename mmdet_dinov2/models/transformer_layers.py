"""Layers of the encoder and of the decoder."""

from __future__ import annotations

from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import FFN
from mmengine.model import BaseModule, ModuleList
from torch import Tensor

from ..errors import InputError
from ..layers import TokenwiseModule, recomputable, tokenwise
from .deformable_attention import DeformableAttention
from .query_attention import QuerySelfAttention

# What mmdet takes where the config of a layer says nothing about its attention.
_ATTENTION = dict(embed_dims=256, num_heads=8, dropout=0.0)


class EncoderLayer(TokenwiseModule, BaseModule):
    """Deformable self-attention and a feed-forward network, each with a norm.

    Parameters and their names are those of mmdet's ``DeformableDetrTransformerEncoderLayer``.

    Args:
        self_attn_cfg: Arguments of :class:`.DeformableAttention`.
        ffn_cfg: Arguments of mmcv's ``FFN``.
        norm_cfg: Normalisation of each token; LN if None.
        norm_first: Whether norms precede what they belong to (pre-norm) instead of following its
            residual sum (post-norm, as published), as in ``torch.nn.TransformerEncoderLayer``.
        deformable_attention: Implementation of the attention.
        with_cp: Whether to compute activations again in the backward pass.
        compiled: Whether what works on each cell alone runs compiled.
        init_cfg: Initialisation config.
    """

    def __init__(
        self,
        self_attn_cfg: dict | None = None,
        ffn_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        norm_first: bool = False,
        deformable_attention: str = 'auto',
        with_cp: bool = False,
        compiled: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(compiled=compiled, init_cfg=init_cfg)
        self.with_cp = with_cp
        self.norm_first = norm_first
        self.self_attn = DeformableAttention(
            **(self_attn_cfg or _ATTENTION), implementation=deformable_attention
        )
        self.embed_dims = self.self_attn.embed_dims
        self.ffn = FFN(**(ffn_cfg or {}))
        self.norms = _norms(norm_cfg, self.embed_dims, 2)

    @recomputable
    def forward(
        self,
        query: Tensor,
        query_pos: Tensor,
        reference_points: Tensor,
        sides: Tensor,
        spatial_shapes: Tensor,
        query_images: Tensor,
    ) -> Tensor:
        """Runs the layer.

        Args:
            query: Stream of cells, shape (T, C).
            query_pos: Their positions, shape (T, C).
            reference_points: See :class:`.DeformableAttention`, shape (T, levels, 2).
            sides: Columns and rows of the levels of the image of each cell, shape (T, levels, 2).
            spatial_shapes: Rows and columns of each level, shape (images, levels, 2).
            query_images: Image of each cell, shape (T,).

        Returns:
            Shape (T, C).
        """
        values, *points = self._before_sampling(query, query_pos, reference_points, sides)
        sampled = self.self_attn.sample(values, spatial_shapes, query_images, *points)
        return self._after_sampling(query, sampled)

    @tokenwise
    def _before_sampling(
        self, query: Tensor, query_pos: Tensor, reference_points: Tensor, sides: Tensor
    ) -> tuple[Tensor, ...]:
        normed = self.norms[0](query) if self.norm_first else query
        points = self.self_attn.points(normed, query_pos, reference_points, sides)
        return self.self_attn.values(normed), *points

    @tokenwise
    def _after_sampling(self, query: Tensor, sampled: Tensor) -> Tensor:
        tokens = self.self_attn.output(sampled, query)
        if self.norm_first:
            return self.ffn(self.norms[1](tokens), identity=tokens)
        return self.norms[1](self.ffn(self.norms[0](tokens)))


class DecoderLayer(TokenwiseModule, BaseModule):
    """Self-attention, deformable attention and a feed-forward network, each with a norm.

    Parameters and their names are those of mmdet's ``DeformableDetrTransformerDecoderLayer``.

    Args:
        self_attn_cfg: Arguments of :class:`.QuerySelfAttention`.
        cross_attn_cfg: Arguments of :class:`.DeformableAttention`.
        ffn_cfg: Arguments of mmcv's ``FFN``.
        norm_cfg: Normalisation of each token; LN if None.
        norm_first: Whether norms precede what they belong to (pre-norm) instead of following its
            residual sum (post-norm, as published), as in ``torch.nn.TransformerEncoderLayer``.
        deformable_attention: Implementation of the deformable attention.
        with_cp: Whether to compute activations again in the backward pass.
        compiled: Whether what works on each query alone runs compiled.
        init_cfg: Initialisation config.
    """

    def __init__(
        self,
        self_attn_cfg: dict | None = None,
        cross_attn_cfg: dict | None = None,
        ffn_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        norm_first: bool = False,
        deformable_attention: str = 'auto',
        with_cp: bool = False,
        compiled: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(compiled=compiled, init_cfg=init_cfg)
        self.with_cp = with_cp
        self.norm_first = norm_first
        self.self_attn = QuerySelfAttention(**(self_attn_cfg or _ATTENTION))
        self.cross_attn = DeformableAttention(
            **(cross_attn_cfg or _ATTENTION), implementation=deformable_attention
        )
        self.embed_dims = self.self_attn.embed_dims
        self.ffn = FFN(**(ffn_cfg or {}))
        self.norms = _norms(norm_cfg, self.embed_dims, 3)

    @recomputable
    def forward(
        self,
        query: Tensor,
        query_pos: Tensor,
        value: Tensor,
        reference_points: Tensor,
        spatial_shapes: Tensor,
        query_images: Tensor,
        self_attn_mask: Tensor | None = None,
        group_size: int | None = None,
    ) -> Tensor:
        """Runs the layer.

        Args:
            query: Shape (B, Q, C).
            query_pos: Their positions, shape (B, Q, C).
            value: Stream of cells, shape (T, C).
            reference_points: See :class:`.DeformableAttention`, shape (B * Q, levels, 4).
            spatial_shapes: Rows and columns of each level, shape (B, levels, 2).
            query_images: Image of each query, shape (B * Q,).
            self_attn_mask: What :func:`.query_attention.additive_mask` returned.
            group_size: See :class:`.QuerySelfAttention`.

        Returns:
            Shape (B, Q, C).
        """
        batch = query.shape[:2]
        # The batch is a stream of queries.
        query, query_pos = query.flatten(0, 1), query_pos.flatten(0, 1)
        qkv = [t.unflatten(0, batch) for t in self._qkv(query, query_pos)]
        attended = self.self_attn.attend(qkv, self_attn_mask, group_size)
        tokens, *points = self._before_sampling(
            query, attended.flatten(0, 1), query_pos, reference_points
        )
        values = self.cross_attn.values(value)
        sampled = self.cross_attn.sample(values, spatial_shapes, query_images, *points)
        return self._after_sampling(tokens, sampled).unflatten(0, batch)

    @tokenwise
    def _qkv(self, query: Tensor, query_pos: Tensor) -> tuple[Tensor, ...]:
        normed = self.norms[0](query) if self.norm_first else query
        return self.self_attn.project(normed, query_pos)

    @tokenwise
    def _before_sampling(
        self, query: Tensor, attended: Tensor, query_pos: Tensor, reference_points: Tensor
    ) -> tuple[Tensor, ...]:
        tokens = self.self_attn.output(attended, query)
        if self.norm_first:
            normed = self.norms[1](tokens)
        else:
            normed = tokens = self.norms[0](tokens)
        return tokens, *self.cross_attn.points(normed, query_pos, reference_points)

    @tokenwise
    def _after_sampling(self, tokens: Tensor, sampled: Tensor) -> Tensor:
        tokens = self.cross_attn.output(sampled, tokens)
        if self.norm_first:
            return self.ffn(self.norms[2](tokens), identity=tokens)
        return self.norms[2](self.ffn(self.norms[1](tokens)))


def _norms(norm_cfg: dict | None, embed_dims: int, number: int) -> ModuleList:
    norm_cfg = norm_cfg or dict(type='LN')
    return ModuleList(build_norm_layer(norm_cfg, embed_dims)[1] for _ in range(number))


def build_layers(
    layer: type[EncoderLayer] | type[DecoderLayer],
    num_layers: int,
    owner: str,
    with_cp: bool,
    num_cp: int,
    least: int = 1,
    **layer_cfg,
) -> ModuleList:
    """Builds equal layers, of which some compute their activations again.

    Args:
        layer: Class of the layers.
        num_layers: Number of layers.
        owner: What has the layers, for the message.
        with_cp: Whether all compute their activations again in the backward pass.
        num_cp: Number of layers, from the first, that do, by mmdet's name; -1 for none.
        least: Smallest number of layers.
        **layer_cfg: Arguments of each layer.

    Returns:
        The layers.

    Raises:
        InputError: If there are fewer layers than ``least`` or ``num_cp``, or ``with_cp`` and
            ``num_cp`` are both given.
    """
    if isinstance(num_layers, bool) or not isinstance(num_layers, int) or num_layers < least:
        raise InputError(
            f'{owner}.num_layers must be a whole number of at least {least}, but is {num_layers!r}'
        )
    if isinstance(num_cp, bool) or not isinstance(num_cp, int) or not -1 <= num_cp <= num_layers:
        raise InputError(
            f'{owner}.num_cp must be the number of layers whose activations are recomputed, from '
            f'-1 (none) to {num_layers} (all), but is {num_cp!r}'
        )
    if with_cp and num_cp != -1:
        raise InputError(
            f'{owner} has with_cp=True (all layers) and num_cp={num_cp}; leave one of them out'
        )
    return ModuleList(layer(**layer_cfg, with_cp=with_cp or i < num_cp) for i in range(num_layers))
