"""DINO on a frozen LingBot-Vision-B, which has the architecture and the layout of DINOv3-B.

The weights are under Apache-2.0. Download timm's file once (docs/weights.md); the official
project is https://github.com/robbyant/lingbot-vision.
"""

_base_ = 'dino_dinov3.py'

model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://huggingface.co/belfner/vit_base_patch16_lingbot.robbyant/'
            'resolve/main/model.safetensors',
        ),
    ),
)
