"""AdamW for a fine-tuned backbone: layer-wise decay and no weight decay on tokens, norms, biases.

Recipes set ``layer_decay_rate``: B 0.7, L 0.8 (EVA-02 with DINO; ViTDet).
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    constructor='LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.7,
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={
            'pos_embed': dict(decay_mult=0.0),
            '_token': dict(decay_mult=0.0),  # CLS and registers
        },
    ),
)
