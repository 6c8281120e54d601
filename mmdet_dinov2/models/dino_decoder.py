"""DINO decoder with query positions that do not depend on the padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmdet.models.layers.transformer.utils import MLP, inverse_sigmoid
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..errors import InputError
from ..layers import PyramidLayout, TokenwiseModule, tokenwise
from .query_attention import additive_mask
from .sine_encoding import encode_boxes, sine_periods
from .transformer_layers import DecoderLayer, build_layers

# Of the encoding of boxes, in mmdet and in the official code.
_TEMPERATURE = 10000


class PaddingAwareDecoder(TokenwiseModule, BaseModule):
    """DINO decoder (arXiv:2203.03605) for images that fill different shares of their canvas.

    The position of a query is encoded relative to its image. mmdet and the official code encode it
    relative to the canvas, so that the same box gets a different query beside a larger batch mate.
    Each coordinate gets ``embed_dims / 2`` channels, as in the paper's code and in the published
    mmdet weights. Reference points stay in fp32 under autocast.

    Parameters and their names are those of mmdet's ``DinoTransformerDecoder``.

    Args:
        num_layers: Number of layers.
        layer_cfg: Arguments of each :class:`.DecoderLayer`.
        deformable_attention: Implementation of the deformable attention; see
            :func:`.deformable_attention.choose_implementation`.
        with_cp: Whether all layers compute their activations again in the backward pass.
        num_cp: Number of layers, from the first, that do; -1 for none.
        compiled: Whether what works on each query alone runs compiled.
        look_forward_twice: Whether the loss of a layer also trains the box that it starts from,
            which is that of the layer before (DINO, section 3.5); as published.
        return_intermediate: True; the key is in mmdet's configs.
        post_norm_cfg: None; the key is in mmdet's configs.
        init_cfg: Initialisation config.

    Raises:
        InputError: If there is no layer, there are fewer layers than ``num_cp``, ``with_cp`` and
            ``num_cp`` are both given, or one of mmdet's keys has a different value.
    """

    def __init__(
        self,
        num_layers: int,
        layer_cfg: dict,
        deformable_attention: str = 'auto',
        with_cp: bool = False,
        num_cp: int = -1,
        compiled: bool = False,
        look_forward_twice: bool = True,
        return_intermediate: bool = True,
        post_norm_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(compiled=compiled, init_cfg=init_cfg)
        if not return_intermediate or post_norm_cfg is not None:
            raise InputError(
                'decoder must have return_intermediate=True and post_norm_cfg=None, got '
                f'{return_intermediate!r} and {post_norm_cfg!r}: all layers have a loss, and the '
                'norm behind them is fixed'
            )
        self.num_layers = num_layers
        self.look_forward_twice = look_forward_twice
        self.layers = build_layers(
            DecoderLayer, num_layers, 'decoder', with_cp, num_cp,
            **layer_cfg, deformable_attention=deformable_attention, compiled=compiled,
        )  # fmt: skip
        self.embed_dims = self.layers[0].embed_dims
        self.ref_point_head = MLP(2 * self.embed_dims, self.embed_dims, self.embed_dims, 2)
        self.norm = nn.LayerNorm(self.embed_dims)

    def forward(
        self,
        query: Tensor,
        value: Tensor,
        self_attn_mask: Tensor | None,
        reference_points: Tensor,
        layout: PyramidLayout,
        reg_branches: nn.ModuleList,
        group_size: int | None = None,
        num_layers: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Refines the queries layer by layer.

        Args:
            query: Content queries, shape (B, Q, C).
            value: Encoder memory, a stream of cells of shape (T, C).
            self_attn_mask: See :class:`.QuerySelfAttention`.
            reference_points: Boxes (cx, cy, w, h) relative to the image, in [0, 1], (B, Q, 4).
            layout: Where the cells come from.
            reg_branches: Box heads of the layers.
            group_size: See :class:`.QuerySelfAttention`.
            num_layers: Number of layers to run, from the first; None runs all.

        Returns:
            Queries after each of these layers, shape (layers, B, Q, C), and the boxes before the
            first and after each layer, shape (layers + 1, B, Q, 4).
        """
        batch = query.shape[:2]
        images = torch.arange(batch[0], device=query.device).repeat_interleave(batch[1])
        # Boxes relative to each level, (B * Q, levels, 4).
        to_levels = torch.cat((layout.extents, layout.extents), -1)[images]
        shift = F.pad(layout.shifts, (0, 2))[images]  # of the centre
        periods = sine_periods(self.embed_dims // 2, _TEMPERATURE, query.device)
        if self_attn_mask is not None:
            self_attn_mask = additive_mask(self_attn_mask, query)
        # The batch is a stream of queries.
        boxes = reference_points.float().flatten(0, 1)
        states, references = [], [boxes]
        for layer, reg_branch in zip(self.layers[:num_layers], reg_branches, strict=False):
            query = layer(
                query,
                query_pos=self._positions(boxes, periods).unflatten(0, batch),
                value=value,
                reference_points=torch.addcmul(shift, boxes[:, None], to_levels),
                spatial_shapes=layout.shapes,
                query_images=images,
                self_attn_mask=self_attn_mask,
                group_size=group_size,
            )
            refined = self._refined(query.flatten(0, 1), boxes, reg_branch)
            boxes = refined.detach()
            references.append(refined if self.look_forward_twice else boxes)
            states.append(query)
        return self.norm(torch.stack(states)), torch.stack(references).unflatten(1, batch)

    @tokenwise
    def _positions(self, boxes: Tensor, periods: Tensor) -> Tensor:
        return self.ref_point_head(encode_boxes(boxes, periods))

    @tokenwise
    def _refined(self, query: Tensor, boxes: Tensor, reg_branch: nn.Module) -> Tensor:
        with torch.autocast(query.device.type, enabled=False):
            offsets = reg_branch(query.float())
        return (offsets + inverse_sigmoid(boxes, eps=1e-3)).sigmoid()
