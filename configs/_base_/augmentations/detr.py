"""DETR's multi-scale augmentation: half of the images are cropped before they are resized.

Use: ``train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))``.
"""

detr_scales = [(short, 1333) for short in range(480, 801, 32)]
train_pipeline = [
    dict(type='mmdet_dinov2.LoadImageFromFile'),  # mmdet: LoadImageFromFile, which trusts files
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[
            [dict(type='RandomChoiceResize', scales=detr_scales, keep_ratio=True)],
            [
                dict(
                    type='RandomChoiceResize',
                    scales=[(400, 4200), (500, 4200), (600, 4200)],
                    keep_ratio=True,
                ),
                dict(
                    type='RandomCrop',
                    crop_type='absolute_range',
                    crop_size=(384, 600),
                    allow_negative_crop=True,
                ),
                dict(type='RandomChoiceResize', scales=detr_scales, keep_ratio=True),
            ],
        ],
    ),
    dict(type='PackDetInputs'),
]
