"""COCO 2017. The pipeline of the training is one of ``_base_/augmentations/``.

No pipeline pads: the model pads the batch itself, and would take the padding of mmcv's ``Pad`` for
a part of the image.
"""

dataset_type = (
    'ClassNameCocoDataset'  # mmdet: CocoDataset, whose labels follow the order of the file
)
data_root = 'data/coco/'
backend_args = None

test_pipeline = [
    # CheckedLoadImageFromFile by the name that mmdet's DetInferencer looks for.
    dict(type='mmdet_dinov2.LoadImageFromFile', backend_args=backend_args),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]

train_dataloader = dict(
    batch_size=4,  # mmdet: 2 on 8 GPUs, the same 16 images a step
    num_workers=4,  # mmdet: 2
    persistent_workers=True,
    # mmdet groups images by aspect ratio to save padding. Padding costs nothing here, and every
    # step draws from all images.
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        # mmdet: also min_size=32. Small images are images like others.
        filter_cfg=dict(filter_empty_gt=False),
        backend_args=backend_args,
    ),
)
# mmdet: batch_size=1. Without one, the runner takes that of the training if predictions do not
# depend on batch mates, else 1.
val_dataloader = dict(
    num_workers=4,  # mmdet: 2
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=test_pipeline,
        backend_args=backend_args,
    ),
)
test_dataloader = val_dataloader

# mmdet: CocoMetric with an `ann_file`. This one reads the annotation file of its dataset; set
# `ann_file` only for a different one.
val_evaluator = dict(type='ClassNameCocoMetric', backend_args=backend_args)
test_evaluator = val_evaluator
