"""Architectures of a ViT as the arguments of a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..layers import Mlp, SwiGLU

FFNS = {'mlp': Mlp, 'swiglu': SwiGLU}
_KEYS = {'embed_dims', 'num_layers', 'num_heads', 'feedforward_channels', 'ffn'}
# layer_scale: initial value of the LayerScales of DINOv2 and DINOv3.
_DEFAULTS = dict(layer_scale=1e-5, qkv_bias=True)


def resolve_arch(
    arch: str | Mapping[str, Any], archs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Checks an architecture and fills in defaults.

    Args:
        arch: Name of a published size, or a dict with the keys of one and optionally
            ``layer_scale`` and ``qkv_bias``.
        archs: The published sizes by name.

    Returns:
        A dict with all keys.

    Raises:
        ValueError: If the size is unknown, or the dict has wrong keys or values.
    """
    if isinstance(arch, str):
        if arch not in archs:
            raise ValueError(
                f'arch={arch!r} is not a published size: choose one of {sorted(archs)} '
                f'or give a dict with the keys {sorted(_KEYS)}'
            )
        arch = archs[arch]
    missing, unknown = _KEYS - set(arch), set(arch) - _KEYS - set(_DEFAULTS)
    if missing or unknown:
        raise ValueError(
            f'the arch dict must have the keys {sorted(_KEYS)} and may have '
            f'{" and ".join(_DEFAULTS)}: missing {sorted(missing)}, unknown {sorted(unknown)}'
        )
    if arch['ffn'] not in FFNS:
        raise ValueError(f"arch['ffn'] must be one of {sorted(FFNS)}, got {arch['ffn']!r}")
    if arch['embed_dims'] % arch['num_heads']:
        raise ValueError(
            f'embed_dims={arch["embed_dims"]} cannot be split over num_heads={arch["num_heads"]}'
        )
    return {**_DEFAULTS, **arch}
