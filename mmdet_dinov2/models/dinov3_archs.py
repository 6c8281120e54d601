"""Published sizes of DINOv3 (arXiv:2508.10104, table 2), and the one that only LingBot-Vision has.

Parameters with the published biases of zero for the keys, without the mask token:

==========  =============
small          21 600 768
small_plus     28 697 088
base           85 668 864
large         303 153 152
huge_plus     840 632 320
7b          6 716 030 976
==========  =============

LingBot-Vision (arXiv:2607.05247) has small, base and large in the same sizes, and giant.
"""

from __future__ import annotations

# Source of the values: timm 1.0.31, eva.py.
ARCHS = {
    'small': dict(embed_dims=384, num_layers=12, num_heads=6, feedforward_channels=1536, ffn='mlp'),
    'small_plus': dict(
        embed_dims=384, num_layers=12, num_heads=6, feedforward_channels=1536, ffn='swiglu'
    ),
    'base': dict(embed_dims=768, num_layers=12, num_heads=12, feedforward_channels=3072, ffn='mlp'),
    'large': dict(
        embed_dims=1024, num_layers=24, num_heads=16, feedforward_channels=4096, ffn='mlp'
    ),
    'huge_plus': dict(
        embed_dims=1280, num_layers=32, num_heads=20, feedforward_channels=5120, ffn='swiglu'
    ),
    'giant': dict(
        embed_dims=1536,
        num_layers=40,
        num_heads=24,
        feedforward_channels=4096,
        ffn='swiglu',
        qkv_bias=False,
    ),
    '7b': dict(
        embed_dims=4096,
        num_layers=40,
        num_heads=32,
        feedforward_channels=8192,
        ffn='swiglu',
        qkv_bias=False,
    ),
}
