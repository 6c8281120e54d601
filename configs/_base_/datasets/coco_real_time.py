"""COCO 2017 for real time: images of one longest side, in their own aspect ratio.

``longest_side`` is the one value that chooses between speed and small objects: 384, 512 or 640, or
another multiple of 32. ``--cfg-options longest_side=384`` changes all sizes below and the windows
of the backbone in proportion.
"""

_base_ = 'coco_detection.py'

longest_side = 512

# DETR's augmentation around that side: half of the images are cropped before they are resized.
train_scales = [
    (side, side)
    for side in range(longest_side * 3 // 4, longest_side * 5 // 4 + 1, longest_side // 16)
]
train_pipeline = [
    dict(type='mmdet_dinov2.LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[
            [dict(type='RandomChoiceResize', scales=train_scales, keep_ratio=True)],
            [
                dict(type='RandomChoiceResize', scales=train_scales, keep_ratio=True),
                dict(
                    type='RandomCrop',
                    crop_type='absolute_range',
                    crop_size=(longest_side // 2, longest_side * 3 // 4),
                    allow_negative_crop=True,
                ),
                dict(type='RandomChoiceResize', scales=train_scales, keep_ratio=True),
            ],
        ],
    ),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='mmdet_dinov2.LoadImageFromFile', backend_args=_base_.backend_args),
    dict(type='Resize', scale=(longest_side, longest_side), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
