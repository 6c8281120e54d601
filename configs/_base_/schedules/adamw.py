"""AdamW: one learning rate for everything but the backbone, which learns at a tenth of it."""

optim_wrapper = dict(
    type='GuardedOptimWrapper',  # mmdet: OptimWrapper, which also takes non-finite steps
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4, fused=True),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    # mmdet: the default constructor, with a group for each parameter, frozen ones included.
    constructor='LayerDecayOptimWrapperConstructor',
    # The neck learns at the full rate. Code in which it is a part of the backbone slows it down.
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.1)}),
)

# The learning rate is meant for 16 images a step, on 4 GPUs with 4 images each.
auto_scale_lr = dict(enable=False, base_batch_size=16)
reference_world_size = 4
