"""Large-scale jitter: resized by 0.1 to 2.0 and cropped to at most 1024 x 1024 (arXiv:2012.07177).

Use: ``train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))``.
"""

train_pipeline = [
    dict(type='mmdet_dinov2.LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomResize', scale=(1024, 1024), ratio_range=(0.1, 2.0), keep_ratio=True),
    # mmdet also pads smaller images to 1024 x 1024. The model would take that padding for a part
    # of the image, so smaller images stay smaller here.
    dict(
        type='RandomCrop',
        crop_type='absolute',
        crop_size=(1024, 1024),
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2), keep_empty=False),
    dict(type='PackDetInputs'),
]
