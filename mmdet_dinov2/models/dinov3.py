"""DINOv3 as a detection backbone."""

from __future__ import annotations

from typing import ClassVar

from mmdet.registry import MODELS
from torch import Tensor

from ..layers import RotaryPosition, TokenLayout
from .dinov3_archs import ARCHS
from .vit import PackedViT


@MODELS.register_module()
class DINOv3(PackedViT):
    """DINOv3 ViT (arXiv:2508.10104) that computes on valid tokens only.

    Positions are rotary: they turn queries and keys of all blocks by angles relative to the image
    (see :class:`mmdet_dinov2.layers.RotaryPosition`), in windows too. Keys have no bias. The
    published weights are not under Apache-2.0, LingBot-Vision's of the same architecture are; see
    ``docs/weights.md``.

    Args:
        arch: 'small', 'small_plus', 'base', 'large', 'huge_plus', '7b', 'giant' (LingBot-Vision's
            only), or a dict with the keys ``embed_dims``, ``num_layers``, ``num_heads``,
            ``feedforward_channels``, ``ffn`` ('mlp' or 'swiglu') and optionally ``layer_scale``
            (initial value of the LayerScales, 1e-5) and ``qkv_bias`` (True).
        patch_size: Side of a patch in pixels; for sizes other than the published 16, a loaded
            kernel is resampled.
        num_registers: Register tokens ("storage tokens") between the CLS and the patch tokens.
        **kwargs: As for :class:`.PackedViT`: windows, freezing, stochastic depth, what is returned.

    Raises:
        ValueError: If an argument is out of range, or two contradict each other.
    """

    ARCHS = ARCHS
    NORM_CFG: ClassVar = dict(type='LN', eps=1e-5)
    KEY_BIAS = False
    TOKEN_STD = 0.02

    def __init__(
        self,
        arch: str | dict = 'base',
        patch_size: int = 16,
        num_registers: int = 4,
        **kwargs,
    ) -> None:
        super().__init__(arch, patch_size, num_registers, **kwargs)

    def _add_positions(self) -> None:
        self.rope_embed = RotaryPosition(self.embed_dims // self.arch['num_heads'])

    def _init_positions(self) -> None:
        self.rope_embed.reset_periods()

    def rotary_table(self, layout: TokenLayout) -> Tensor:
        """Returns the angles that queries and keys are turned by; see :class:`.PackedViT`."""
        return layout.by_place(self.rope_embed, self.rope_embed.unrotated())
