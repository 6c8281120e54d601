"""mmdet's DINO decoder with query positions that do not see the padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmdet.models.layers import DinoTransformerDecoder
from mmdet.models.layers.transformer.utils import MLP, coordinate_to_encoding, inverse_sigmoid
from mmengine.model import ModuleList
from torch import Tensor, nn

from ..layers import PyramidLayout
from .dino_encoder import sampling_shift
from .query_attention import QuerySelfAttention
from .transformer_layers import DecoderLayer, set_recomputed


class PaddingAwareDecoder(DinoTransformerDecoder):
    """DINO decoder (arXiv:2203.03605) for images that fill different shares of their canvas.

    The position of a query is encoded relative to its image. mmdet and the official code encode it
    relative to the canvas, so that the same box gets another query beside a larger batch mate.
    Each coordinate gets ``embed_dims / 2`` channels, as in the paper's code and in the published
    mmdet weights. Reference points stay in fp32 under autocast.

    Args:
        *args: As for mmdet's ``DinoTransformerDecoder``.
        with_cp: Whether all layers recompute their activations in the backward pass.
        num_cp: Number of layers, from the first, that do; -1 is none.
        **kwargs: As for mmdet's ``DinoTransformerDecoder``.

    Raises:
        InputError: If there are fewer layers than ``num_cp``, or both are given.
    """

    def __init__(self, *args, with_cp: bool = False, num_cp: int = -1, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        set_recomputed(self.layers, with_cp, num_cp, 'decoder')

    def _init_layers(self) -> None:
        super()._init_layers()
        self.layers = ModuleList(DecoderLayer(**self.layer_cfg) for _ in range(self.num_layers))
        for layer in self.layers:
            layer.self_attn = QuerySelfAttention(**layer.self_attn_cfg)
        self.ref_point_head = MLP(2 * self.embed_dims, self.embed_dims, self.embed_dims, 2)

    def forward(
        self,
        query: Tensor,
        value: Tensor,
        self_attn_mask: Tensor | None,
        reference_points: Tensor,
        layout: PyramidLayout,
        reg_branches: nn.ModuleList,
    ) -> tuple[Tensor, Tensor]:
        """Refines the queries layer by layer.

        Args:
            query: Content queries, shape (B, Q, C).
            value: Encoder memory, a stream of cells of shape (T, C).
            self_attn_mask: True where queries may not attend, shape (Q, Q) or (B, Q, Q).
            reference_points: Boxes (cx, cy, w, h) relative to the image, in [0, 1], (B, Q, 4).
            layout: Where the cells come from.
            reg_branches: Box heads of the layers.

        Returns:
            Queries after each layer, shape (layers, B, Q, C), and the boxes before the first and
            after each layer, shape (layers + 1, B, Q, 4).
        """
        # Boxes relative to each level, (B, 1, levels, 4).
        to_levels = torch.cat((layout.extents, layout.extents), -1)[:, None]
        shift = F.pad(sampling_shift(layout), (0, 2))[:, None]  # of the centre
        reference_points = reference_points.float()
        states, references = [], [reference_points]
        for layer, reg_branch in zip(self.layers, reg_branches, strict=False):
            encoding = coordinate_to_encoding(reference_points, num_feats=self.embed_dims // 2)
            query = layer(
                query,
                query_pos=self.ref_point_head(encoding),
                value=value,
                self_attn_mask=self_attn_mask,
                spatial_shapes=layout.shapes,
                reference_points=reference_points[:, :, None] * to_levels + shift,
            )
            with torch.autocast(query.device.type, enabled=False):
                offset = reg_branch(query.float())
            refined = (offset + inverse_sigmoid(reference_points, eps=1e-3)).sigmoid()
            # "Look forward twice": the loss of a layer reaches the box of the layer before it.
            references.append(refined)
            reference_points = refined.detach()
            states.append(self.norm(query))
        return torch.stack(states), torch.stack(references)
