"""50 epochs, learning rate x 0.1 from epoch 40 (detrex)."""

max_epochs = 50
train_cfg = dict(type='EpochTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[40], gamma=0.1)
]
