"""AdamW for a fine-tuned backbone: layer-wise decay of the learning rate.

Tokens, position embedding, norms and biases have no weight decay. Recipes set ``layer_decay_rate``:
B 0.7, L 0.8 (EVA-02 with DINO; ViTDet).
"""

_base_ = 'adamw.py'

optim_wrapper = dict(
    optimizer=dict(weight_decay=0.05),
    paramwise_cfg=dict(
        _delete_=True,
        layer_decay_rate=0.7,
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={
            'pos_embed': dict(decay_mult=0.0),
            '_token': dict(decay_mult=0.0),  # CLS and registers
        },
    ),
)
