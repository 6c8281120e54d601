"""DINOv2 backbones of this project and of other libraries, in the same size."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from ..errors import InputError
from ..models import DINOv2
from ..models.dinov2 import PRETRAIN_PATCH_SIZE
from .detectors import stock_backbone_config

PEERS = ('timm', 'transformers', 'mmpretrain')


@dataclass(frozen=True)
class Backbone:
    """A backbone that turns a padded batch of images into features.

    Attributes:
        model: The model.
        features: Computes the last normalised features from images (B, 3, H, W) and their valid
            sizes; the peers ignore the sizes.
    """

    model: nn.Module
    features: Callable[[Tensor, Sequence[tuple[int, int]] | None], Tensor]

    def train_once(self, images: Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> None:
        """Runs a forward and a backward pass and drops the gradients."""
        self.features(images, sizes).sum().backward()
        self.model.zero_grad(set_to_none=True)


def installed_peers(names: Sequence[str] = PEERS) -> list[str]:
    """Returns the names of the peers that are installed."""
    return [name for name in names if importlib.util.find_spec(name) is not None]


def build_backbone(
    library: str,
    arch: str | Mapping[str, Any],
    patch_size: int = PRETRAIN_PATCH_SIZE,
    img_size: int = 518,
    layer_scale: float | None = None,
    **options: Any,
) -> Backbone:
    """Builds a backbone with random weights, in evaluation mode.

    Args:
        library: 'ours' or one of ``PEERS``.
        arch: Architecture, as for ``DINOv2``.
        patch_size: Side of a patch in pixels.
        img_size: Side in pixels of the images that the position embedding is for, with patches of
            14 pixels.
        layer_scale: Value of all LayerScales; None keeps that of the architecture. With the
            published initial value of 1e-5 the blocks hardly affect the features.
        **options: Further arguments of ``DINOv2``; only for this project's backbone.

    Raises:
        InputError: If the library is unknown or does not have such a model.
    """
    size = DINOv2.resolve_arch(arch)
    if layer_scale is not None:
        size['layer_scale'] = layer_scale
    builders = dict(ours=_ours, timm=_timm, transformers=_transformers, mmpretrain=_mmpretrain)
    if library not in builders:
        raise InputError(f'library must be one of {sorted(builders)}, but is {library!r}')
    if library != 'ours' and options:
        raise InputError(f'{library} does not have a DINOv2 with {", ".join(options)}')
    backbone = builders[library](size, patch_size, img_size, **options)
    backbone.model.eval()
    return backbone


def _ours(size: dict, patch_size: int, img_size: int, **options: Any) -> Backbone:
    model = DINOv2(arch=size, patch_size=patch_size, img_size=img_size, **options)
    model.init_weights()
    return Backbone(model, lambda images, sizes: model(images, sizes)[-1])


def _timm(size: dict, patch_size: int, img_size: int) -> Backbone:
    from timm.layers import SwiGLUPacked
    from timm.models.vision_transformer import VisionTransformer

    gated = dict(mlp_layer=SwiGLUPacked, act_layer=nn.SiLU) if size['ffn'] == 'swiglu' else {}
    # The gated layer of timm expects the width of both halves together.
    hidden = size['feedforward_channels'] * (2 if gated else 1)
    model = VisionTransformer(
        img_size=_grid_side(patch_size, img_size),
        patch_size=patch_size,
        num_classes=0,
        embed_dim=size['embed_dims'],
        depth=size['num_layers'],
        num_heads=size['num_heads'],
        mlp_ratio=hidden / size['embed_dims'],
        init_values=size['layer_scale'],
        dynamic_img_size=True,
        dynamic_img_pad=True,
        **gated,
    )
    return Backbone(model, lambda images, sizes: model.forward_features(images))


def _transformers(size: dict, patch_size: int, img_size: int) -> Backbone:
    from transformers import Dinov2Config, Dinov2Model

    gated = size['ffn'] == 'swiglu'
    ratio = size['feedforward_channels'] / size['embed_dims']
    config = Dinov2Config(
        hidden_size=size['embed_dims'],
        num_hidden_layers=size['num_layers'],
        num_attention_heads=size['num_heads'],
        # transformers expects the width before it multiplies by 2/3 for the gate, in steps of 8.
        mlp_ratio=round(ratio * 3 / 2) if gated else round(ratio),
        use_swiglu_ffn=gated,
        layerscale_value=size['layer_scale'],
        image_size=_grid_side(patch_size, img_size),
        patch_size=patch_size,
    )
    model = Dinov2Model(config)
    return Backbone(model, lambda images, sizes: model(pixel_values=images).last_hidden_state)


def _mmpretrain(size: dict, patch_size: int, img_size: int) -> Backbone:
    model = MODELS.build(stock_backbone_config(size, patch_size, img_size))
    model.init_weights()
    return Backbone(model, lambda images, sizes: model(images)[-1])


def _grid_side(patch_size: int, img_size: int) -> int:
    """Returns the side of an image with as many patches as the position embedding."""
    return img_size // PRETRAIN_PATCH_SIZE * patch_size


def random_images(count: int, size: tuple[int, int], seed: int) -> Tensor:
    """Returns normalised images of noise, shape (count, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *size, generator=generator)
