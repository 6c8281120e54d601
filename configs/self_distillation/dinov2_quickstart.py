"""A small backbone on the pictures of the sample dataset, from random weights, on a CPU.

Command:    mmdet_dinov2 train self_distillation/dinov2_quickstart
Batch:      1 process x 16 images x 1 accumulation step = 16

It shows that the mechanism works, not what it is worth: in the drawn pictures a class is its
colour, which random features keep too. Small batches and few prototypes need low temperatures.
"""

_base_ = [
    '../_base_/models/self_distillation.py',
    '../_base_/datasets/photos.py',
    '../_base_/schedules/self_distillation.py',
    '../_base_/self_distillation_runtime.py',
]

model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            embed_dims=192,
            num_layers=4,
            num_heads=3,
            feedforward_channels=768,
            ffn='mlp',
            layer_scale=1.0,
        ),
        img_size=168,
        drop_path_rate=0.1,
    ),
    head=dict(num_prototypes=128, hidden=512, bottleneck=256, num_layers=3),
)

sample_data = dict(root='data/shapes/', num_train=400, num_val=100, seed=0)
brightness = dict(
    type='mmpretrain.ColorJitter', brightness=0.2, contrast=0.2, saturation=0.2, backend='cv2'
)
flip = dict(type='RandomFlip', prob=0.5)
global_crop = dict(type='mmpretrain.RandomResizedCrop', scale=84, crop_ratio_range=(0.4, 1.0))
local_crop = dict(type='mmpretrain.RandomResizedCrop', scale=42, crop_ratio_range=(0.1, 0.4))
train_pipeline = [
    dict(type='mmdet_dinov2.LoadImageFromFile'),
    dict(
        type='mmpretrain.MultiView',
        num_views=[2, 2],
        transforms=[[global_crop, flip, brightness], [local_crop, flip, brightness]],
    ),
    dict(type='PackCrops', patch_size=14, mask_prob=1.0, mask_ratio=(0.2, 0.6)),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root='data/shapes/train', pipeline=train_pipeline),
)

max_iters = 250
train_cfg = dict(type='IterTrainLoop', max_iters=max_iters)
optim_wrapper = dict(optimizer=dict(lr=3e-4), paramwise_cfg=dict(layer_decay_rate=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=25),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=0.1,
        by_epoch=False,
        begin=25,
        end=max_iters,
        T_max=max_iters - 25,
    ),
]
custom_hooks = [
    dict(
        type='SelfDistillationHook',
        momentum=(0.99, 1.0),
        teacher_temperature=(0.03, 0.03),
        temperature_warmup=0.3,
        last_layer_freeze=0.1,
    ),
    dict(type='CollapseGuardHook', patience=30, interval=25, max_entropy=0.9),
]
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=125))

auto_scale_lr = dict(base_batch_size=16)
reference_world_size = 1
