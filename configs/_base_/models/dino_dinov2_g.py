"""DINO on a frozen DINOv2-g."""

_base_ = 'dino_dinov2.py'

model = dict(
    backbone=dict(
        arch='giant',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://dl.fbaipublicfiles.com/dinov2/dinov2_vitg14/'
            'dinov2_vitg14_pretrain.pth',
        ),
    ),
    neck=dict(in_channels=1536),
)
