"""DINOv2 as a detection backbone."""

from __future__ import annotations

from typing import ClassVar

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from ..checkpoint import LoadReport, load_backbone
from ..layers import interpolate_pos_embed
from .dinov2_archs import ARCHS
from .vit import PackedViT, check_positive

# Side of the patches in pixels that all published position embeddings were learned with.
PRETRAIN_PATCH_SIZE = 14


@MODELS.register_module()
class DINOv2(PackedViT):
    """DINOv2 ViT (arXiv:2304.07193) that computes on valid tokens only.

    Positions are a learned embedding, which is interpolated to the grid of each image and added to
    its patches.

    Args:
        arch: 'small', 'base', 'large', 'giant', or a dict with the keys ``embed_dims``,
            ``num_layers``, ``num_heads``, ``feedforward_channels``, ``ffn`` ('mlp' or 'swiglu') and
            optionally ``layer_scale`` (initial value of the LayerScales, 1e-5) and ``qkv_bias``
            (True).
        img_size: Side in pixels of the images that the position embedding was learned on, at
            patches of 14 pixels: 518 gives the published 37 x 37 grid. The parameter keeps that
            grid for every ``patch_size``; it is interpolated to the grid of each image.
        patch_size: Side of a patch in pixels. For sizes other than 14, a loaded kernel is
            resampled.
        num_registers: Register tokens between the CLS and the patch tokens; 4 in the published
            models with registers.
        pos_embed_antialias: Whether to antialias the interpolated position embedding; None follows
            the published variant: True with registers, False without.
        pos_embed_offset: Offset of the interpolation (see ``interpolate_pos_embed``); None follows
            the published variant: 0 with registers, 0.1 without.
        **kwargs: As for :class:`.PackedViT`: windows, freezing, stochastic depth, what is returned.

    Raises:
        ValueError: If an argument is out of range, or two contradict each other.
    """

    ARCHS = ARCHS
    NORM_CFG: ClassVar = dict(type='LN', eps=1e-6)
    KEY_BIAS = True
    TOKEN_STD = 1e-6

    def __init__(
        self,
        arch: str | dict = 'base',
        img_size: int = 518,
        patch_size: int = 14,
        num_registers: int = 0,
        pos_embed_antialias: bool | None = None,
        pos_embed_offset: float | None = None,
        **kwargs,
    ) -> None:
        check_positive(img_size=img_size)
        if img_size % PRETRAIN_PATCH_SIZE:
            raise ValueError(
                f'img_size={img_size} must be a multiple of {PRETRAIN_PATCH_SIZE}, the patch size '
                'that the position embedding was learned with (518 in the published models)'
            )
        self.grid_side = img_size // PRETRAIN_PATCH_SIZE
        super().__init__(arch, patch_size, num_registers, **kwargs)
        self.antialias = bool(num_registers) if pos_embed_antialias is None else pos_embed_antialias
        default_offset = 0.0 if num_registers else 0.1
        self.offset = default_offset if pos_embed_offset is None else pos_embed_offset

    def _add_positions(self) -> None:
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid_side**2, self.embed_dims))

    def _init_positions(self) -> None:
        trunc_normal_(self.pos_embed, std=0.02)

    def _added_to_cls(self) -> Tensor:
        return self.pos_embed[:, 0]

    def _added_to_patches(self, grid: tuple[int, int]) -> Tensor:
        return interpolate_pos_embed(self.pos_embed[:, 1:], grid, self.antialias, self.offset)

    def _load_pretrained(self, source: str) -> LoadReport:
        return load_backbone(self, source, self.antialias, self.offset)
