"""AdamW of DINOv2's self-distillation; recipes set lengths and rates."""

optim_wrapper = dict(
    type='GuardedOptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-3, betas=(0.9, 0.999), weight_decay=0.04, fused=True),
    clip_grad=dict(max_norm=3.0, norm_type=2),
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.9,
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys={'patch_embed': dict(lr_mult=0.2)},
    ),
)

custom_hooks = [
    dict(
        type='SelfDistillationHook',
        momentum=(0.992, 1.0),
        teacher_temperature=(0.04, 0.07),
        temperature_warmup=0.3,
        last_layer_freeze=0.01,
    ),
    dict(type='CollapseGuardHook', patience=50, interval=500),
]
