"""What every self-distillation needs. It has no evaluation."""

_base_ = 'default_runtime.py'

default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2500, save_best=None, rule=None))
val_cfg = None
test_cfg = None
log_processor = dict(by_epoch=False)
