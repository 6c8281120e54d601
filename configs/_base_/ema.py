"""Exponential moving average of the weights, 0.9999 per step, evaluated and saved beside them."""

custom_hooks = [dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0001)]
