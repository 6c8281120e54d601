"""50 epochs: linear warm-up from 0.001 x lr in the first 5, cosine down to 0.01 x lr.

A fine-tuned ViT with DINO is unstable without warm-up (detrex: 250 iterations); 5 epochs are 250
iterations where an epoch has 50.
"""

max_epochs = 50
warmup_epochs = 5
train_cfg = dict(type='EpochTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# Both count iterations, so that the rate changes smoothly within an epoch.
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.001,
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
