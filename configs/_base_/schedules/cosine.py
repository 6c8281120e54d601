"""12 epochs: linear warm-up from 0.01 x lr in the first one, then cosine down to 0.01 x lr.

A recipe of a different length sets both numbers, as `dino_dinov2_b_30ep_adamw.py` does.
"""

max_epochs = 12
warmup_epochs = 1
train_cfg = dict(type='EpochTrainLoop', max_epochs=max_epochs, val_interval=1)

# Both count iterations, so that the rate changes smoothly within an epoch.
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.01,
        begin=0,
        end=warmup_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=0.01,
        begin=warmup_epochs,
        end=max_epochs,
        T_max=max_epochs - warmup_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
