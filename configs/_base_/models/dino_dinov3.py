"""DINO (4 scales, 900 queries) on a frozen DINOv3-B with a simple feature pyramid.

The weights are Meta's, under the DINOv3 License. Their address works only for those who filled in a
form; docs/weights.md says where else they are.
"""

_base_ = 'dino_dinov2.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='DINOv3',
        arch='base',
        patch_size=16,  # published: strides 8 to 64 without resampling
        frozen_stages='all',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://dl.fbaipublicfiles.com/dinov3/dinov3_vitb16/'
            'dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth',
        ),
    ),
)
