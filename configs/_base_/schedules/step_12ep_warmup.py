"""``step_12ep.py`` with 250 iterations of warm-up from 0.001 x lr.

A fine-tuned ViT with DINO is unstable without warm-up (detrex).
"""

_base_ = 'step_12ep.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=250, by_epoch=False),
    *_base_.param_scheduler,
]
