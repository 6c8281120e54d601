"""DINO, frozen LingBot-Vision-B/16, simple feature pyramid, 12 epochs of COCO.

Command:    tools/dist_train.sh configs/dino_lingbot_b_12ep.py 4
Batch:      4 GPUs x 4 images x 1 accumulation step = 16
Reference:  none published with DINO
Unverified: the published file itself; the layout is that of timm, compared with random weights
"""

_base_ = [
    '_base_/models/dino_lingbot_b.py',
    '_base_/datasets/coco_detection.py',
    '_base_/augmentations/detr.py',
    '_base_/schedules/adamw.py',
    '_base_/schedules/step_12ep.py',
    '_base_/default_runtime.py',
]

train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))
