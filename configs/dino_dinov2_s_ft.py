"""DINO, fine-tuned DINOv2-S/14 at patch 16 with windows, for your own data.

Command:    mmdet_dinov2 train dino_dinov2_s_ft --data PATH
Batch:      1 GPU x 4 images x 1 accumulation step = 4
Learning:   AdamW, layer-wise decay 0.7, cosine, 50 epochs of at least 50 steps, averaged weights;
            ends after 15 epochs without better AP
Reference:  none published with DINO; 0.7 is the best layer-wise decay for DINOv2-S with ViT-Adapter
            (51.5 box AP on COCO)
"""

_base_ = [
    '_base_/models/dino_dinov2_s_ft.py',
    '_base_/datasets/coco_detection.py',
    '_base_/augmentations/detr.py',
    '_base_/schedules/adamw_ft.py',
    '_base_/schedules/cosine.py',
    '_base_/default_runtime.py',
    '_base_/small_data.py',
]

# IoU-aware classification of LW-DETR and RF-DETR (docs/recipe-parts.md).
model = dict(bbox_head=dict(loss_cls=dict(_delete_=True, type='IABCELoss')))

train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=5e-5))  # 1e-4 at batch 16, by the square root
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))

# A fine-tuned ViT with DINO is unstable without warm-up (detrex: 250 iterations from 0.001 x lr).
# 5 epochs are 250 iterations where an epoch has 50.
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
