"""DINO on a frozen DINOv2-L."""

_base_ = 'dino_dinov2.py'

model = dict(
    backbone=dict(
        arch='large',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/'
            'dinov2_vitl14_pretrain.pth',
        ),
    ),
    neck=dict(in_channels=1024),
)
