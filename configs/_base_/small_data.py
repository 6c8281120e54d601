"""Settings for a few thousand steps on a small dataset, where COCO's would not fit.

Use: add ``'_base_/small_data.py'`` as the last of the ``_base_`` of a recipe.
"""

# With --data, a smaller training set is repeated within an epoch. Otherwise what a recipe counts in
# epochs (warm-up, schedule, evaluations) would be over before anything is learned.
min_epoch_steps = 50

custom_hooks = [
    # The average of about the last 1000 steps. `gamma` makes it follow faster in the first
    # hundreds. The 0.9999 of COCO recipes would still hold the weights of the start.
    dict(type='TrainedEMAHook', ema_type='ExpMomentumEMA', momentum=0.001, gamma=500),
    # 0.001 is a tenth of an AP point. The AP of few images goes up and down between evaluations.
    dict(
        type='ResumableEarlyStoppingHook',
        monitor='coco/bbox_mAP',
        rule='greater',
        min_delta=0.001,
        patience=15,
    ),
]
