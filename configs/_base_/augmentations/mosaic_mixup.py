"""Mosaic and MixUp of images that are kept in a cache, and a second stage without them.

As in mmdet's RTMDet, the last epochs use ``train_pipeline_stage2``, here DETR's augmentation::

    train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))
    custom_hooks = [
        dict(
            type='PipelineSwitchHook',
            switch_epoch=_base_.max_epochs - 2,
            switch_pipeline=_base_.train_pipeline_stage2,
        )
    ]

The cache of each worker fills in the order in which images come. Runs with a different number of
workers or GPUs therefore combine different images.
"""

_base_ = 'detr.py'

train_pipeline_stage2 = _base_.train_pipeline
train_pipeline = [
    dict(type='mmdet_dinov2.LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='CachedMosaic', img_scale=(640, 640), pad_val=114.0, max_cached_images=20),
    dict(type='RandomResize', scale=(1280, 1280), ratio_range=(0.5, 1.5), keep_ratio=True),
    dict(
        type='RandomCrop',
        crop_type='absolute',
        crop_size=(800, 800),
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='CachedMixUp',
        img_scale=(800, 800),
        ratio_range=(1.0, 1.0),
        max_cached_images=10,
        pad_val=114.0,
        prob=0.5,
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type='PackDetInputs'),
]
