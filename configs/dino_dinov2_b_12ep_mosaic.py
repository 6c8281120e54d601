"""DINO, frozen DINOv2-B/14 at patch 16, 12 epochs of COCO, 10 of them with Mosaic and MixUp.

Command:    tools/dist_train.sh configs/dino_dinov2_b_12ep_mosaic.py 4
Batch:      4 GPUs x 4 images x 1 accumulation step = 16
"""

_base_ = [
    '_base_/models/dino_dinov2.py',
    '_base_/datasets/coco_detection.py',
    '_base_/augmentations/mosaic_mixup.py',
    '_base_/schedules/adamw.py',
    '_base_/schedules/step_12ep.py',
    '_base_/default_runtime.py',
]

train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))
custom_hooks = [
    dict(
        type='PipelineSwitchHook',
        switch_epoch=_base_.max_epochs - 2,
        switch_pipeline=_base_.train_pipeline_stage2,
    )
]
