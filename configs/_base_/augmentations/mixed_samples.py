"""MixUp, CutMix or Mosaic for half of the images, and a second stage without them.

The samples to mix with and everything else that is random come from the seed of the sample. As in
``mosaic_mixup.py``, the last epochs use ``train_pipeline_stage2``, here DETR's augmentation::

    train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))
    custom_hooks = [
        dict(
            type='PipelineSwitchHook',
            switch_epoch=_base_.max_epochs - 2,
            switch_pipeline=_base_.train_pipeline_stage2,
        )
    ]
"""

_base_ = 'detr.py'

train_pipeline_stage2 = _base_.train_pipeline
# Of each sample that is mixed; the last one, which packs, comes after the mixing.
single_pipeline = _base_.train_pipeline[:-1]
train_pipeline = [
    *single_pipeline,
    dict(
        type='RandomChoice',
        prob=[0.5, 0.25, 0.125, 0.125],
        transforms=[
            [],
            [
                dict(
                    type='MixSamples',
                    transform=dict(type='BoxMixUp', alpha=1.5),
                    pre_transform=single_pipeline,
                )
            ],
            [
                dict(
                    type='MixSamples',
                    transform=dict(type='BoxCutMix', alpha=1.0),
                    pre_transform=single_pipeline,
                )
            ],
            [
                dict(
                    type='MixSamples',
                    transform=dict(type='Mosaic', img_scale=(640, 640), pad_val=114.0),
                    pre_transform=single_pipeline,
                ),
                dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
            ],
        ],
    ),
    dict(type='PackWeightedDetInputs'),
]
