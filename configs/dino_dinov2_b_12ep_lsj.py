"""DINO, frozen DINOv2-B/14 at patch 16, 12 epochs of COCO with LSJ 1024.

Command:    tools/dist_train.sh configs/dino_dinov2_b_12ep_lsj.py 4
Batch:      4 GPUs x 4 images x 1 accumulation step = 16
Reference:  none published
Cost:       not known
Here:       not measured
"""

_base_ = ['dino_dinov2_b_12ep.py', '_base_/augmentations/lsj_1024.py']

train_dataloader = dict(dataset=dict(pipeline=_base_.lsj_pipeline))
val_dataloader = dict(dataset=dict(pipeline=_base_.lsj_test_pipeline))
test_dataloader = val_dataloader
