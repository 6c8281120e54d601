"""Sample dataset of drawn shapes, an ordinary COCO dataset in `data/shapes` of the current folder.

It is drawn by `sample_data` on first use. A config with other datasets does not read it, and then
nothing is drawn.
"""

dataset_type = 'ClassNameCocoDataset'
data_root = 'data/shapes/'
sample_data = dict(root=data_root, num_train=400, num_val=100, seed=0)
metainfo = dict(classes=('circle', 'rectangle', 'triangle', 'star', 'cross'))

test_pipeline = [
    dict(type='mmdet_dinov2.LoadImageFromFile'),
    dict(type='Resize', scale=(168, 168), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]

train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        filter_cfg=dict(filter_empty_gt=False),
        metainfo=metainfo,
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='annotations/val.json',
        data_prefix=dict(img='val/'),
        test_mode=True,
        metainfo=metainfo,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='ClassNameCocoMetric')
test_evaluator = val_evaluator
