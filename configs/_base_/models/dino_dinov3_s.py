"""DINO on a frozen DINOv3-S."""

_base_ = 'dino_dinov3.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://dl.fbaipublicfiles.com/dinov3/dinov3_vits16/'
            'dinov3_vits16_pretrain_lvd1689m-08c60483.pth',
        ),
    ),
    neck=dict(in_channels=384),
)
