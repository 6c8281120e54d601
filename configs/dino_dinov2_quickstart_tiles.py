"""The small model of the quick start on tiles of large drawn images, from random weights.

Command:    mmdet_dinov2 train dino_dinov2_quickstart_tiles
Batch:      1 process x 8 tiles x 1 accumulation step = 8
"""

_base_ = ['dino_dinov2_quickstart.py']

tile_size = 224
data_root = 'data/shapes_scenes/'
# 500 shapes of 12 to 40 pixels in each image of 4000 x 3000.
sample_data = dict(root=data_root, num_train=12, num_val=4, seed=0, scene=dict())

model = dict(tile=dict(size=tile_size, overlap=0.2))

train_pipeline = [
    dict(type='TiledLoadImageFromFile', reduced=False, keep=12),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomTile', size=tile_size, empty_share=0.1),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
# Tiles have the size of their pixels. A larger image as a whole is reduced to a tile.
test_pipeline = [
    dict(type='TiledLoadImageFromFile', reduced_side=tile_size),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackTiledInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='RepeatDataset',  # an epoch takes 34 tiles of each image
        times=34,
        dataset=dict(
            type='ClassNameCocoDataset',
            data_root=data_root,
            ann_file='annotations/train.json',
            data_prefix=dict(img='train/'),
            filter_cfg=dict(filter_empty_gt=False),
            metainfo=_base_.metainfo,
            pipeline=train_pipeline,
        ),
    )
)
val_dataloader = dict(batch_size=1, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
