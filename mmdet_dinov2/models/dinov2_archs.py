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
