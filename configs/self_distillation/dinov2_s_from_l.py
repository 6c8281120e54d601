"""ViT-S from a ViT-L that was self-distilled, as the paper made its S and B: nothing is hidden.

Command:    tools/dist_train.sh configs/self_distillation/dinov2_s_from_l.py 32
Batch:      32 processes x 64 images x 1 accumulation step = 2048
Reference:  DINOv2 (arXiv:2304.07193), section 5, "Knowledge distillation". Not run here.

Name the checkpoint of ``dinov2_l_100ep.py`` with ``--cfg-options model.source.checkpoint=FILE``:
the larger network teaches with its heads, which released weights do not have.
"""

_base_ = 'dinov2_l_100ep.py'

model = dict(
    backbone=dict(arch='small', drop_path_rate=0.0),
    source=dict(
        checkpoint='work_dirs/dinov2_l_100ep/iter_125000.pth',
        backbone=dict(
            type='DINOv2',
            arch=_base_.model.backbone.arch,
            patch_size=14,
            img_size=224,
            frozen_stages='all',
        ),
        head=_base_.model.head,
    ),
)
