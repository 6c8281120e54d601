"""DINO, frozen DINOv2-B/14 at patch 16, 30 epochs of COCO with AdamW at 3e-4 and cosine.

Command:    tools/dist_train.sh configs/dino_dinov2_b_30ep_adamw.py 4
Batch:      4 GPUs x 4 images x 1 accumulation step = 16
"""

_base_ = [
    '_base_/models/dino_dinov2.py',
    '_base_/datasets/coco_detection.py',
    '_base_/augmentations/detr.py',
    '_base_/schedules/adamw.py',
    '_base_/schedules/cosine.py',
    '_base_/default_runtime.py',
]

train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=3e-4, weight_decay=0.01), clip_grad=dict(max_norm=40.0))

max_epochs = 30
warmup_epochs = 2.5
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(_base_.param_scheduler[0], end=warmup_epochs),
    dict(
        _base_.param_scheduler[1],
        begin=warmup_epochs,
        end=max_epochs,
        T_max=max_epochs - warmup_epochs,
    ),
]
