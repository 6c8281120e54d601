"""A small model on the sample dataset, from random weights, for a CPU with 2 cores.

Command:    mmdet_dinov2 train dino_dinov2_quickstart
Batch:      1 process x 8 images x 1 accumulation step = 8
"""

_base_ = [
    '_base_/models/dino_dinov2.py',
    '_base_/datasets/shapes.py',
    '_base_/schedules/adamw.py',
    '_base_/default_runtime.py',
]

num_classes = 5
embed_dims = 128
model = dict(
    num_queries=20,
    num_feature_levels=3,
    backbone=dict(
        arch=dict(
            _delete_=True,
            embed_dims=192,
            num_layers=4,
            num_heads=3,
            feedforward_channels=768,
            ffn='mlp',
            layer_scale=1.0,
        ),
        img_size=168,
        patch_size=14,
        frozen_stages=-1,
        init_cfg=None,
    ),
    neck=dict(  # strides 14, 28 and 56
        in_channels=192, out_channels=embed_dims, scale_factors=(1.0, 0.5), num_outs=3
    ),
    encoder=dict(
        num_layers=2,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=embed_dims, num_levels=3),
            ffn_cfg=dict(embed_dims=embed_dims, feedforward_channels=512),
        ),
    ),
    decoder=dict(
        num_layers=3,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=embed_dims),
            cross_attn_cfg=dict(embed_dims=embed_dims, num_levels=3),
            ffn_cfg=dict(embed_dims=embed_dims, feedforward_channels=512),
        ),
    ),
    positional_encoding=dict(num_feats=embed_dims // 2),
    bbox_head=dict(
        num_classes=num_classes,
        embed_dims=embed_dims,
        # Of RF-DETR: bbox_mAP 0.660 instead of 0.623 with the focal loss (docs/recipe-parts.md).
        loss_cls=dict(_delete_=True, type='IABCELoss'),
    ),
    dn_cfg=dict(group_cfg=dict(num_dn_queries=30)),
    # With the published weight of 2, near-identical queries take turns in being matched, and so few
    # steps do not separate them. A larger weight of the scores keeps the matches stable.
    train_cfg=dict(
        assigner=dict(
            match_costs=[
                dict(type='FocalLossCost', weight=12.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ]
        )
    ),
    test_cfg=dict(max_per_img=100),
)

train_pipeline = [
    dict(type='mmdet_dinov2.LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoiceResize',
        scales=[(side, side) for side in (140, 154, 168)],  # longer side
        keep_ratio=True,
    ),
    dict(type='PackDetInputs'),
]
# Both cores compute. A process that loads images for 20 ms a step would only interrupt them.
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader

# Nothing is pretrained, so everything learns at one rate.
optim_wrapper = dict(
    optimizer=dict(lr=8e-4),
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=1.0)}),
)

max_epochs = 14
train_cfg = dict(type='EpochTrainLoop', max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=0.01,
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(logger=dict(interval=25))

auto_scale_lr = dict(base_batch_size=8)
reference_world_size = 1
