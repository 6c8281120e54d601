"""Random rescaling by 0.5 to 1.5 and a random crop of 60 to 100 % of each side.

Use: ``train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))``.
"""

train_pipeline = [
    dict(type='mmdet_dinov2.LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomResize', scale=(1333, 800), ratio_range=(0.5, 1.5), keep_ratio=True),
    dict(
        type='RandomCrop',
        crop_type='relative_range',
        crop_size=(0.6, 0.6),
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type='PackDetInputs'),
]
