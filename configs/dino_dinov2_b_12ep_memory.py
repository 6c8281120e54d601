"""DINO, frozen DINOv2-B/14 at patch 16, 12 epochs of COCO, with all that saves memory on one GPU.

The same recipe as dino_dinov2_b_12ep.py, in bf16. Any recipe takes these settings; for a fine-tuned
backbone, `with_cp=True` takes the place of `frozen_dtype`.

Command:    tools/dist_train.sh configs/dino_dinov2_b_12ep_memory.py 4
Batch:      4 GPUs x 4 images x 1 accumulation step = 16
Reference:  51.94 box AP on COCO val2017 (dgcnz/edge, https://github.com/dgcnz/edge, with detrex)
"""

_base_ = 'dino_dinov2_b_12ep.py'

model = dict(
    backbone=dict(frozen_dtype='bfloat16'),
    encoder=dict(with_cp=True),
    decoder=dict(with_cp=True),
)
optim_wrapper = dict(type='Bf16OptimWrapper')
