"""AdamW of the recipe: one learning rate for all but the backbone, which learns at a tenth."""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    constructor='LayerDecayOptimWrapperConstructor',
    # The neck, which other code bases name a part of the backbone, learns at the full rate.
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.1)}),
)
