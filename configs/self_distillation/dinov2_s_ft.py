"""Released ViT-S on your photos: heads first, then all of it with a small rate.

Command:    tools/dist_train.sh configs/self_distillation/dinov2_s_ft.py 4
Batch:      4 processes x 64 images x 1 accumulation step = 256
Reference:  none; the rates are a cautious guess. Not run here.

Released weights have no heads. For a tenth of the training only heads and mask token learn, on a
backbone that stays as it is.
"""

_base_ = [
    '../_base_/models/self_distillation.py',
    '../_base_/datasets/photos.py',
    '../_base_/schedules/self_distillation.py',
    '../_base_/self_distillation_runtime.py',
]

model = dict(
    backbone=dict(
        drop_path_rate=0.1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth',
        ),
    ),
)

max_iters = 20000
heads_first = 2000
train_cfg = dict(type='IterTrainLoop', max_iters=max_iters)
optim_wrapper = dict(optimizer=dict(lr=2e-4), paramwise_cfg=dict(layer_decay_rate=0.7))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=500),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=0.01,
        by_epoch=False,
        begin=heads_first,
        end=max_iters,
        T_max=max_iters - heads_first,
    ),
]
custom_hooks = [
    dict(
        type='SelfDistillationHook',
        momentum=(0.996, 1.0),
        teacher_temperature=(0.04, 0.06),
        temperature_warmup=0.3,
        last_layer_freeze=0.005,
        heads_first=heads_first / max_iters,
    ),
    dict(type='CollapseGuardHook', patience=50, interval=500),
]

auto_scale_lr = dict(enable=False, base_batch_size=256)
reference_world_size = 4
