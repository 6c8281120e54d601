"""DINO on a fine-tuned DINOv2-L: windows of 14 x 14 tokens with 4 global blocks, drop path."""

_base_ = 'dino_dinov2_l.py'

model = dict(
    backbone=dict(
        frozen_stages=-1,
        drop_path_rate=0.4,
        window_size=14,
        global_attn_indexes=[5, 11, 17, 23],
        with_cp=True,
    )
)
