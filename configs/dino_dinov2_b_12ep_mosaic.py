"""DINO, frozen DINOv2-B/14 at patch 16, 12 epochs of COCO, 10 of them with Mosaic and MixUp.

Command:    tools/dist_train.sh configs/dino_dinov2_b_12ep_mosaic.py 4
Batch:      4 GPUs x 4 images x 1 accumulation step = 16
Reference:  none published
Cost:       not known
Here:       not measured
"""

_base_ = ['dino_dinov2_b_12ep.py', '_base_/augmentations/mosaic_mixup.py']

train_dataloader = dict(dataset=dict(pipeline=_base_.mosaic_mixup_pipeline))
custom_hooks = [
    dict(
        type='PipelineSwitchHook',
        switch_epoch=_base_.mosaic_mixup_last_epoch,
        switch_pipeline=_base_.detr_pipeline,
    )
]
