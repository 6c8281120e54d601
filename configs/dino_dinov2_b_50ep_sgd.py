"""DINO, frozen DINOv2-B/14 at patch 16, 50 epochs with SGD at 1e-3.

Command:    tools/dist_train.sh configs/dino_dinov2_b_50ep_sgd.py 4
Batch:      4 GPUs x 4 images x 1 accumulation step = 16
Reference:  none published; DETR-like detectors are rarely trained with SGD
Cost:       not known
Here:       not measured
"""

_base_ = [
    '_base_/models/dino_dinov2.py',
    '_base_/datasets/coco_detection.py',
    '_base_/schedules/sgd_50ep.py',
    '_base_/default_runtime.py',
]

auto_scale_lr = dict(enable=False, base_batch_size=16)
reference_world_size = 4
