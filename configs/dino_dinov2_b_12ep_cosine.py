"""DINO, frozen DINOv2-B/14 at patch 16, 12 epochs of COCO with warm-up and cosine.

Command:    tools/dist_train.sh configs/dino_dinov2_b_12ep_cosine.py 4
Batch:      4 GPUs x 4 images x 1 accumulation step = 16
Reference:  none published; with a step at epoch 11: 51.94
Cost:       not known
Here:       not measured
"""

_base_ = [
    '_base_/models/dino_dinov2.py',
    '_base_/datasets/coco_detection.py',
    '_base_/schedules/adamw.py',
    '_base_/schedules/cosine_12ep.py',
    '_base_/default_runtime.py',
]

auto_scale_lr = dict(enable=False, base_batch_size=16)
reference_world_size = 4
