"""DINO on a frozen DINOv2-B with 4 registers."""

_base_ = 'dino_dinov2.py'

model = dict(
    backbone=dict(
        num_registers=4,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/'
            'dinov2_vitb14_reg4_pretrain.pth',
        ),
    )
)
