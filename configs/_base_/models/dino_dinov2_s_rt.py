"""DINO for real time on a fine-tuned DINOv2-S, cut as ``dino_dinov2_b_rt.py``."""

_base_ = 'dino_dinov2_b_rt.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/'
            'dinov2_vits14_pretrain.pth',
        ),
    ),
    neck=dict(in_channels=384),
)
