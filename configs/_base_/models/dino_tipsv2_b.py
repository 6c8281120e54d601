"""DINO on a frozen TIPSv2-B, a DINOv2-B with one register and a grid of 32 x 32 positions.

The weights are under Apache-2.0. The model was trained on images from 0 to 1 without further
normalisation.
"""

_base_ = 'dino_dinov2.py'

model = dict(
    data_preprocessor=dict(mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0]),
    backbone=dict(
        img_size=448,
        num_registers=1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://huggingface.co/timm/vit_base_patch14_reg1_tipsv2.webli/'
            'resolve/main/model.safetensors',
        ),
    ),
)
