"""Mask R-CNN of ViTDet on DINOv2-B/14 at patch 16, 100 epochs of COCO with LSJ 1024.

Command:    tools/dist_train.sh configs/vitdet/mask_rcnn_dinov2_b_100ep.py 8
Batch:      8 GPUs x 8 images x 1 accumulation step = 64
Reference:  none published with DINOv2; detectron2's ViTDet-B with MAE: 51.6 box AP and
            45.9 mask AP
"""

_base_ = [
    '../_base_/models/vitdet_mask_rcnn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/augmentations/lsj_1024.py',
    '../_base_/schedules/vitdet_100ep.py',
    '../_base_/default_runtime.py',
]

train_pipeline = [
    _base_.train_pipeline[0],
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    *_base_.train_pipeline[2:],
]

test_pipeline = [
    dict(type='mmdet_dinov2.LoadImageFromFile'),
    dict(type='Resize', scale=(1024, 1024), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(batch_size=8, num_workers=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
