"""12 epochs, learning rate x 0.1 for the last one, as mmdet's DINO."""

max_epochs = 12
# mmdet: EpochBasedTrainLoop, which counts micro-batches instead of optimizer steps.
train_cfg = dict(type='EpochTrainLoop', max_epochs=max_epochs, val_interval=1)
param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[11], gamma=0.1)
]
