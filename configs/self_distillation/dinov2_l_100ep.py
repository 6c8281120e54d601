"""ViT-L from random weights, as DINOv2's published short recipe: 100 epochs of 1250 steps.

Command:    tools/dist_train.sh configs/self_distillation/dinov2_l_100ep.py 32
Batch:      32 processes x 64 images x 1 accumulation step = 2048
Reference:  facebookresearch/dinov2, vitl16_short.yaml, with patches of 14 pixels and local crops
            of 98. Not run here.

The learning rate is 4e-3 at 1024 images, and grows with the square root of the batch.
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
            embed_dims=1024,
            num_layers=24,
            num_heads=16,
            feedforward_channels=2736,
            ffn='swiglu',
        ),
        img_size=224,
    ),
)

max_iters = 125000
warmup = 12500
train_cfg = dict(type='IterTrainLoop', max_iters=max_iters)
optim_wrapper = dict(optimizer=dict(lr=5.66e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=False, begin=0, end=warmup),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=2e-4,
        by_epoch=False,
        begin=warmup,
        end=max_iters,
        T_max=max_iters - warmup,
    ),
    dict(
        type='CosineAnnealingParamScheduler',
        param_name='weight_decay',
        eta_min_ratio=10.0,  # 0.04 -> 0.4
        by_epoch=False,
        begin=0,
        end=max_iters,
        T_max=max_iters,
    ),
]

auto_scale_lr = dict(enable=False, base_batch_size=2048)
reference_world_size = 32
