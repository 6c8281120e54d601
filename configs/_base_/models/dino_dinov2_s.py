"""DINO on a frozen DINOv2-S."""

_base_ = 'dino_dinov2.py'

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
