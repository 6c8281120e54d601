"""Mosaic and MixUp of images kept in a cache, switched off for the last 2 of 12 epochs.

Use, with the pipeline for the last epochs being that of the recipe::

    train_dataloader = dict(dataset=dict(pipeline=_base_.mosaic_mixup_pipeline))
    custom_hooks = [
        dict(
            type='PipelineSwitchHook',
            switch_epoch=_base_.mosaic_mixup_last_epoch,
            switch_pipeline=_base_.detr_pipeline,
        )
    ]

The cache of each worker fills in the order in which images come: runs with another number of
workers or GPUs combine other images.
"""

mosaic_mixup_last_epoch = 10
mosaic_mixup_pipeline = [
    dict(type='LoadImageFromFile'),
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
