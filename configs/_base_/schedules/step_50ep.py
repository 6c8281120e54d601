"""50 epochs, learning rate x 0.1 from epoch 40 (detrex)."""

_base_ = 'step_12ep.py'

max_epochs = 50
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [dict(_base_.param_scheduler[0], end=max_epochs, milestones=[40])]
