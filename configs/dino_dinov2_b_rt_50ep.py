"""DINO for real time, fine-tuned DINOv2-B/14 at patch 16 with windows, 50 epochs of COCO.

Command:    tools/dist_train.sh configs/dino_dinov2_b_rt_50ep.py 4
            and --cfg-options longest_side=384 for speed, 640 for small objects (default: 512)
Batch:      4 GPUs x 4 images x 1 accumulation step = 16
Reference:  none published with DINO
"""

_base_ = [
    '_base_/models/dino_dinov2_b_rt.py',
    '_base_/datasets/coco_real_time.py',
    '_base_/schedules/adamw_ft.py',
    '_base_/schedules/step_50ep.py',
    '_base_/default_runtime.py',
    '_base_/ema.py',
]

# A fine-tuned ViT with DINO is unstable without warm-up (detrex).
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=250, by_epoch=False),
    *_base_.param_scheduler,
]
