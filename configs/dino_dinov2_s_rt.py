"""DINO for real time, fine-tuned DINOv2-S/14 at patch 16 with windows, for your own data.

Command:    mmdet_dinov2 train dino_dinov2_s_rt --data PATH
            and --cfg-options longest_side=384 for speed, 640 for small objects (default: 512)
Batch:      1 GPU x 4 images x 1 accumulation step = 4
Learning:   as dino_dinov2_s_ft.py
Reference:  none published with DINO; RF-DETR-S has the same backbone and as many windows, decoder
            layers and queries
"""

_base_ = [
    '_base_/models/dino_dinov2_s_rt.py',
    '_base_/datasets/coco_real_time.py',
    '_base_/schedules/adamw_ft.py',
    '_base_/schedules/cosine.py',
    '_base_/default_runtime.py',
    '_base_/small_data.py',
]

optim_wrapper = dict(optimizer=dict(lr=5e-5))  # 1e-4 at batch 16, by the square root
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))

# As in dino_dinov2_s_ft.py.
max_epochs = 50
warmup_epochs = 5
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(_base_.param_scheduler[0], start_factor=0.001, end=warmup_epochs),
    dict(
        _base_.param_scheduler[1],
        begin=warmup_epochs,
        end=max_epochs,
        T_max=max_epochs - warmup_epochs,
    ),
]

auto_scale_lr = dict(base_batch_size=4)
reference_world_size = 1
