"""DINO on a frozen DINOv3-L."""

_base_ = 'dino_dinov3.py'

model = dict(
    backbone=dict(
        arch='large',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://dl.fbaipublicfiles.com/dinov3/dinov3_vitl16/'
            'dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd.pth',
        ),
    ),
    neck=dict(in_channels=1024),
)
