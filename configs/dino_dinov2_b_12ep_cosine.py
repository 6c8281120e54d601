"""DINO, frozen DINOv2-B/14 at patch 16, 12 epochs of COCO with warm-up and cosine.

Command:    tools/dist_train.sh configs/dino_dinov2_b_12ep_cosine.py 4
Batch:      4 GPUs x 4 images x 1 accumulation step = 16
Reference:  none published; with a step at epoch 11: 51.94 (dgcnz/edge, with detrex)
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
