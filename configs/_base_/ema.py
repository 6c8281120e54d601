"""Exponential moving average of the weights, 0.9999 per step, evaluated and saved beside them.

Frozen weights equal their average, so they are neither copied nor averaged.
"""

custom_hooks = [dict(type='TrainedEMAHook', ema_type='ExpMomentumEMA', momentum=0.0001)]
