"""What a training of a few thousand steps on a small data set wants different from COCO.

Use, as the last of the ``_base_`` of a recipe: ``'_base_/small_data.py'``.
"""

# With --data: a smaller training set is repeated within an epoch, so that what a recipe counts in
# epochs (warm-up, schedule, evaluations) is never over before anything is learned.
min_epoch_steps = 50

custom_hooks = [
    # The average of about the last 1000 steps; `gamma` makes it follow faster in the first
    # hundreds. 0.9999 of COCO recipes would still hold what the training began with.
    dict(type='TrainedEMAHook', ema_type='ExpMomentumEMA', momentum=0.001, gamma=500),
    # 0.001 is a tenth of an AP point. AP of a few images goes up and down between evaluations.
    dict(
        type='ResumableEarlyStoppingHook',
        monitor='coco/bbox_mAP',
        rule='greater',
        min_delta=0.001,
        patience=15,
    ),
]
