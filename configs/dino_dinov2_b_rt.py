"""DINO for real time, fine-tuned DINOv2-B/14 at patch 16 with windows, for your own data.

Command:    mmdet_dinov2 train dino_dinov2_b_rt --data PATH
            and --cfg-options longest_side=384 for speed, 640 for small objects (default: 512)
Batch:      1 GPU x 4 images x 1 accumulation step = 4
Learning:   as dino_dinov2_s_rt.py
Reference:  none published with DINO
"""

_base_ = 'dino_dinov2_s_rt.py'

model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/'
            'dinov2_vitb14_pretrain.pth',
        ),
    ),
    neck=dict(in_channels=768),
)
