"""DINO, frozen DINOv2-B/14 at patch 16, 50 epochs of COCO with SGD at 1e-3.

Command:    tools/dist_train.sh configs/dino_dinov2_b_50ep_sgd.py 4
Batch:      4 GPUs x 4 images x 1 accumulation step = 16
"""

_base_ = [
    '_base_/models/dino_dinov2.py',
    '_base_/datasets/coco_detection.py',
    '_base_/augmentations/detr.py',
    '_base_/schedules/adamw.py',
    '_base_/schedules/step_50ep.py',
    '_base_/default_runtime.py',
]

train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))
# Detectors like DETR are rarely trained with SGD.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='SGD', lr=1e-3, momentum=0.9, weight_decay=1e-4)
)
param_scheduler = [dict(_base_.param_scheduler[0], milestones=[20, 40])]
