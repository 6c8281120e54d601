"""DINOv2 models of other libraries, for any image size, with random parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


def randomize(model: nn.Module) -> nn.Module:
    """Gives every parameter a value that shows in the output.

    At the published initial LayerScale of 1e-5 a model without any block would pass a comparison.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ('gamma', 'lambda1')):
                parameter.uniform_(0.5, 1.5)
            elif any(part in name for part in ('token', 'pos_embed', 'position_embeddings')):
                parameter.normal_(std=0.5)
            elif parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@dataclass(frozen=True)
class Peer:
    """A model of a different library.

    Attributes:
        model: The model, random.
        features: Computes the normed patch tokens (B, N, C) of images.
        options: Arguments of our ``DINOv2`` that give the same model; interpolation included.
    """

    model: nn.Module
    features: Callable[[Tensor], Tensor]
    options: dict


def timm_peer(name: str, size: tuple[int, int], depth: int | None = None) -> Peer:
    """Builds a model of timm that interpolates its position embedding to ``size``."""
    import timm

    kwargs = {} if depth is None else dict(depth=depth)
    model = timm.create_model(f'{name}.lvd142m', dynamic_img_size=True, **kwargs)
    randomize(model)
    registers = 4 if 'reg4' in name else 0
    arch = _arch(name, depth)
    return Peer(
        model,
        lambda x: model.forward_features(x)[:, 1 + registers :],
        dict(arch=arch, num_registers=registers, pos_embed_antialias=True, pos_embed_offset=0.0),
    )


def transformers_peer(registers: int, depth: int = 12) -> Peer:
    """Builds a small model of Hugging Face transformers, with its own interpolation."""
    import transformers

    kind = 'Dinov2WithRegisters' if registers else 'Dinov2'
    config_type = getattr(transformers, f'{kind}Config')
    config = config_type(
        hidden_size=384,
        num_hidden_layers=depth,
        num_attention_heads=6,
        image_size=518,
        patch_size=14,
        **(dict(num_register_tokens=registers) if registers else {}),
    )
    model = randomize(getattr(transformers, f'{kind}Model')(config))
    return Peer(
        model,
        lambda x: model(pixel_values=x).last_hidden_state[:, 1 + registers :],
        # transformers antialiases only with registers, and interpolates to a size in both cases.
        dict(
            arch=_arch('vit_small', depth),
            num_registers=registers,
            pos_embed_antialias=bool(registers),
            pos_embed_offset=0.0,
        ),
    )


def mmpretrain_peer(depth: int = 12) -> Peer:
    """Builds mmpretrain's small model, which interpolates bicubically without antialiasing."""
    from mmpretrain.models import VisionTransformer

    model = VisionTransformer(
        arch=dict(embed_dims=384, num_layers=depth, num_heads=6, feedforward_channels=384 * 4),
        img_size=518, patch_size=14, layer_scale_init_value=1e-5, out_type='featmap',
    )  # fmt: skip
    randomize(model)
    return Peer(
        model,
        lambda x: model(x)[0].flatten(2).transpose(1, 2),
        dict(arch=_arch('vit_small', depth), pos_embed_antialias=False, pos_embed_offset=0.0),
    )


def _arch(name: str, depth: int | None) -> str | dict:
    from mmdet_dinov2.models.dinov2_archs import ARCHS

    size = name.split('_')[1]
    return size if depth is None else dict(ARCHS[size], num_layers=depth)
