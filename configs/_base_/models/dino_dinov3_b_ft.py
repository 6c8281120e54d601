"""DINO on a fine-tuned DINOv3-B: windows of 14 x 14 tokens with 4 global blocks, drop path."""

_base_ = 'dino_dinov3.py'

model = dict(
    backbone=dict(
        frozen_stages=-1,
        drop_path_rate=0.1,
        window_size=14,
        global_attn_indexes=[2, 5, 8, 11],
    )
)
