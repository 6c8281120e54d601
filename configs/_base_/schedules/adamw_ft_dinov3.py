"""``adamw_ft.py`` for a backbone without a position embedding."""

_base_ = 'adamw_ft.py'

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(_delete_=True, _token=dict(decay_mult=0.0))  # CLS and registers
    )
)
