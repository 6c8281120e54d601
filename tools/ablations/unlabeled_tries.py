"""Settings of unlabeled photos, one at a time, with 40 of the 400 sample pictures labeled.

Command:    mmdet_dinov2 ablate tools/ablations/unlabeled_tries.py

The base has labels alone and averages its weights, as all runs do. All runs have 700 steps.
"""

config = 'dino_dinov2_quickstart'
seeds = [0, 1, 2]
options = {
    'train_dataloader.dataset': dict(
        _delete_=True,
        type='RepeatDataset',
        times=10,
        dataset=dict(
            type='ClassNameCocoDataset',
            data_root='data/shapes/',
            ann_file='annotations/train.json',
            data_prefix=dict(img='train/'),
            metainfo=dict(classes=('circle', 'rectangle', 'triangle', 'star', 'cross')),
            indices=40,
            pipeline=[
                dict(type='mmdet_dinov2.LoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=True),
                dict(type='RandomFlip', prob=0.5),
                dict(
                    type='RandomChoiceResize',
                    scales=[(side, side) for side in (140, 154, 168)],
                    keep_ratio=True,
                ),
                dict(type='PackDetInputs'),
            ],
        ),
    ),
    'custom_hooks': [
        dict(type='TrainedEMAHook', ema_type='ExpMomentumEMA', momentum=0.002, gamma=100)
    ],
}


def photos(**settings):
    """Returns the setting of a training with unlabeled photos."""
    return {'unlabeled': dict(folder='data/shapes/train', **settings)}


changes = dict(
    default=photos(),
    fewer_sure=photos(sure_share=0.6),
    more_sure=photos(sure_share=0.9),
    late_fewer_sure=photos(burn_in=0.3, sure_share=0.6),
    late_more_sure=photos(burn_in=0.3, sure_share=0.9),
    low_scores=photos(min_score=0.1),
    high_scores=photos(min_score=0.5),
    fewer_unsure=photos(unsure_share=0.8),
    twice_as_many=photos(ratio=2),
    strong_weight=photos(weight=2.0),
    weak_weight=photos(weight=0.5),
    same_view=photos(strong=[]),
)
