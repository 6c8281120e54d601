"""DINO, fine-tuned DINOv2-S/14 at patch 16 with windows, for your own data.

Command:    python tools/train.py configs/dino_dinov2_s_ft.py --data PATH
Batch:      1 GPU x 4 images x 1 accumulation step = 4
Learning:   AdamW, lr 5e-5 (1e-4 at batch 16, by the square root), layer-wise decay 0.7, cosine,
            50 epochs of at least 50 steps, averaged weights; ends after 15 epochs without better AP
Reference:  none published; layer-wise decay 0.7 is best for DINOv2-S in ViT-Adapter (51.5 on COCO)
Cost:       not known
Here:       not measured
"""

_base_ = [
    '_base_/models/dino_dinov2_s_ft.py',
    '_base_/datasets/coco_detection.py',
    '_base_/schedules/adamw_ft.py',
    '_base_/schedules/cosine_50ep.py',
    '_base_/default_runtime.py',
    '_base_/small_data.py',
]

optim_wrapper = dict(optimizer=dict(lr=5e-5))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))

auto_scale_lr = dict(enable=False, base_batch_size=4)
reference_world_size = 1
