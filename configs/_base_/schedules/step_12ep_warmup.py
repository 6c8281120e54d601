"""12 epochs, 250 iterations of warm-up from 0.001 x lr, learning rate x 0.1 for the last epoch.

A fine-tuned ViT with DINO is unstable without warm-up (detrex).
"""

max_epochs = 12
train_cfg = dict(type='EpochTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=250, by_epoch=False),
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[11], gamma=0.1),
]
