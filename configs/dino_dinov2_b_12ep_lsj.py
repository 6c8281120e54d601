"""DINO, frozen DINOv2-B/14 at patch 16, 12 epochs of COCO with LSJ 1024.

Command:    tools/dist_train.sh configs/dino_dinov2_b_12ep_lsj.py 4
Batch:      4 GPUs x 4 images x 1 accumulation step = 16
"""

_base_ = [
    '_base_/models/dino_dinov2.py',
    '_base_/datasets/coco_detection.py',
    '_base_/augmentations/lsj_1024.py',
    '_base_/schedules/adamw.py',
    '_base_/schedules/step_12ep.py',
    '_base_/default_runtime.py',
]

train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))

test_pipeline = [
    dict(type='mmdet_dinov2.LoadImageFromFile'),
    dict(type='Resize', scale=(1024, 1024), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
