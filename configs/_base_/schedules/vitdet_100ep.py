"""ViTDet's training: AdamW with layer-wise decay of the learning rate, 100 epochs at batch 64.

Values are those of mmdet's ViTDet project unless a comment says otherwise.
"""

optim_wrapper = dict(
    # mmdet: AmpOptimWrapper, fp16; `train --amp` takes bf16.
    type='GuardedOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1, fused=True),
    # mmdet: LayerDecayOptimizerConstructor of the project, the same rates.
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.7,
        norm_decay_mult=0.0,
        custom_keys={
            'pos_embed': dict(decay_mult=0.0),
            '_token': dict(decay_mult=0.0),  # CLS, which ViTDet does not have
        },
    ),
)

# mmdet counts iterations: 184375, with steps after 163889 and 177546.
max_epochs = 100
train_cfg = dict(type='EpochTrainLoop', max_epochs=max_epochs, val_interval=5)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=250, by_epoch=False),
    dict(
        type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[89, 96], gamma=0.1
    ),
]

auto_scale_lr = dict(enable=False, base_batch_size=64)
reference_world_size = 8
