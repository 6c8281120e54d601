"""Mask R-CNN of ViTDet on DINOv2-S/14 at patch 16, 100 epochs of COCO with LSJ 1024.

Command:    tools/dist_train.sh configs/vitdet/mask_rcnn_dinov2_s_100ep.py 8
Batch:      8 GPUs x 8 images x 1 accumulation step = 64
Reference:  none published
"""

_base_ = ['mask_rcnn_dinov2_b_100ep.py']

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
