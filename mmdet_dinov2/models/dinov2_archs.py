"""Published sizes of DINOv2 (arXiv:2304.07193, table 17).

Parameters at patches of 14 pixels and 518 x 518, without the mask token:

======  =============
small      22 056 192
base       86 579 712
large     304 367 616
giant   1 136 479 232
======  =============

Four registers add 4 x ``embed_dims``.
"""

from __future__ import annotations

from ..layers import Mlp, SwiGLU

# Source of the values: facebookresearch/dinov2, vision_transformer.py.
ARCHS = {
    'small': dict(embed_dims=384, num_layers=12, num_heads=6, feedforward_channels=1536, ffn='mlp'),
    'base': dict(embed_dims=768, num_layers=12, num_heads=12, feedforward_channels=3072, ffn='mlp'),
    'large': dict(
        embed_dims=1024, num_layers=24, num_heads=16, feedforward_channels=4096, ffn='mlp'
    ),
    'giant': dict(
        embed_dims=1536, num_layers=40, num_heads=24, feedforward_channels=4096, ffn='swiglu'
    ),
}
FFNS = {'mlp': Mlp, 'swiglu': SwiGLU}
# Initial value of DINOv2's LayerScales.
_LAYER_SCALE = 1e-5


def resolve_arch(arch: str | dict) -> dict:
    """Checks an architecture and fills in defaults.

    Args:
        arch: Name of a published size, or a dict with the keys of one and optionally
            ``layer_scale``.

    Returns:
        A dict with all keys.

    Raises:
        ValueError: If the size is unknown, or the dict has wrong keys or values.
    """
    keys = set(ARCHS['base'])
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(
                f'arch={arch!r} is not a published size: choose one of {sorted(ARCHS)} '
                f'or give a dict with the keys {sorted(keys)}'
            )
        arch = ARCHS[arch]
    missing, unknown = keys - set(arch), set(arch) - keys - {'layer_scale'}
    if missing or unknown:
        raise ValueError(
            f'the arch dict must have the keys {sorted(keys)} and may have layer_scale: '
            f'missing {sorted(missing)}, unknown {sorted(unknown)}'
        )
    if arch['ffn'] not in FFNS:
        raise ValueError(f"arch['ffn'] must be one of {sorted(FFNS)}, got {arch['ffn']!r}")
    if arch['embed_dims'] % arch['num_heads']:
        raise ValueError(
            f'embed_dims={arch["embed_dims"]} cannot be split over num_heads={arch["num_heads"]}'
        )
    return dict(layer_scale=_LAYER_SCALE, **arch) if 'layer_scale' not in arch else dict(arch)
