"""AdamW with bf16 autocast, on GPUs and CPUs."""

_base_ = 'adamw.py'

optim_wrapper = dict(type='Bf16OptimWrapper')
