"""Labels alone and with unlabeled photos, at the same number of labels and steps.

Command:    mmdet_dinov2 ablate tools/ablations/unlabeled.py

Of the 400 sample pictures, the first 10, 20, 40 or 100 have labels and the others have none. All
runs have 700 steps. The base has all 400 labels.
"""

config = 'dino_dinov2_quickstart'
seeds = [0, 1, 2]

pipeline = [
    dict(type='mmdet_dinov2.LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoiceResize',
        scales=[(side, side) for side in (140, 154, 168)],
        keep_ratio=True,
    ),
    dict(type='PackDetInputs'),
]
# The average of the weights alone gains something, so it is a change of its own.
average = dict(type='TrainedEMAHook', ema_type='ExpMomentumEMA', momentum=0.002, gamma=100)


def few_labels(count):
    """Returns the settings of a training on the first labels, 50 steps an epoch."""
    labeled = dict(
        type='ClassNameCocoDataset',
        data_root='data/shapes/',
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        metainfo=dict(classes=('circle', 'rectangle', 'triangle', 'star', 'cross')),
        indices=count,
        pipeline=pipeline,
    )
    repeated = dict(_delete_=True, type='RepeatDataset', times=400 // count, dataset=labeled)
    return {'train_dataloader.dataset': repeated}


changes = {}
references = {}
for count in (10, 20, 40, 100):
    settings = few_labels(count)
    averaged = {**settings, 'custom_hooks': [average]}
    changes[f'labels_{count}'] = settings
    changes[f'averaged_{count}'] = averaged
    changes[f'unlabeled_{count}'] = {**averaged, 'unlabeled': dict(folder='data/shapes/train')}
    references[f'averaged_{count}'] = f'labels_{count}'
    references[f'unlabeled_{count}'] = f'averaged_{count}'
