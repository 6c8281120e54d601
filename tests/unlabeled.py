"""Trainings with unlabeled photos, for tests that compare runs."""

from __future__ import annotations


def unlabeled_text(labeled: int, times: int, averages: bool = True, **settings) -> str:
    """Returns the end of a config of ``tests.tools.write_config`` with unlabeled photos.

    Args:
        labeled: Number of training images with labels; the others have none.
        times: How often these are repeated in an epoch.
        averages: Whether weights are averaged.
        **settings: Of ``unlabeled``.
    """
    # Of few photos, shares below 1 would be less than one box.
    rules = dict(sure_share=2.0, unsure_share=4.0, min_score=0.05)
    settings = rules | dict(ramp_up=0.5, interval=2) | settings
    average = "dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.01)" if averages else ''
    return f"""
few = dict(
    type='ClassNameCocoDataset', data_root=data_root, ann_file='annotations/train.json',
    data_prefix=dict(img='train/'), indices={labeled},
    metainfo=dict(classes=('circle', 'rectangle', 'triangle', 'star', 'cross')),
    pipeline=train_dataloader['dataset']['pipeline'])
train_dataloader['dataset'] = dict(
    _delete_=True, type='RepeatDataset', times={times}, dataset=few)
unlabeled = dict(folder=data_root + 'train', **{settings!r})
custom_imports = dict(imports=['mmdet_dinov2', 'tests.stopping_hook'])
custom_hooks = [dict(type='ConfidentStart'), {average}]
"""
