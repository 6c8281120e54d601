"""DINO, frozen DINOv2-B/14 at patch 16, 12 epochs of COCO, weights averaged.

Command:    tools/dist_train.sh configs/dino_dinov2_b_12ep_ema.py 4
Batch:      4 GPUs x 4 images x 1 accumulation step = 16
Reference:  none published with DINOv2; with ResNet-50, averaging gained 0.2 (detrex)
"""

_base_ = ['dino_dinov2_b_12ep.py', '_base_/ema.py']
