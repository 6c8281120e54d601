"""DINO with a fifth, finest level for small objects, frozen DINOv2-B/14 at patch 16, 12 epochs.

Command:    tools/dist_train.sh configs/dino_dinov2_b_12ep_5scale.py 4
Batch:      4 GPUs x 4 images x 1 accumulation step = 16
Reference:  none published with DINOv2; Swin-L with 5 levels: 57.2 (mmdet, configs/dino)
"""

_base_ = 'dino_dinov2_b_12ep.py'

model = dict(
    num_feature_levels=5,
    neck=dict(scale_factors=(4.0, 2.0, 1.0, 0.5), num_outs=5),  # strides 4, 8, 16, 32 and 64
    encoder=dict(layer_cfg=dict(self_attn_cfg=dict(num_levels=5))),
    decoder=dict(layer_cfg=dict(cross_attn_cfg=dict(num_levels=5))),
)
