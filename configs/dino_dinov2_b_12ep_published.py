"""The published DINOv2 + ViTDet + DINO detector, as dgcnz/edge trained it with detrex.

Weights:    https://huggingface.co/dgcnz/dinov2_vitdet_DINO_12ep, model_final.pth as it is
Test:       tools/test.py configs/dino_dinov2_b_12ep_published.py model_final.pth
Command:    tools/dist_train.sh configs/dino_dinov2_b_12ep_published.py 4
Batch:      4 GPUs x 4 images x 1 accumulation step = 16
Reference:  51.94 box AP on COCO val2017 (dgcnz/edge, https://github.com/dgcnz/edge, with detrex).
            Not measured here.

The model computes what detrex computes for one image at a time. In a batch, images of detrex are
padded and see the padding of one another, in training too; here they do not. So a training with
this config is not that of the published weights; dino_dinov2_b_12ep.py is the recipe to train.
"""

_base_ = 'dino_dinov2_b_12ep.py'

model = dict(
    coordinates='grid',
    backbone=dict(
        img_size=448,  # 32 x 32 positions; detrex resampled them when it loaded the backbone
        pos_embed_antialias=True,
        pos_embed_offset=0.0,
        final_norm=False,
    ),
    neck=dict(pooling='floor', mapper_groups=32),
    bbox_head=dict(reference_eps=1e-3),
)

# As in dino_dinov2_b_12ep.py, decoded and resized by Pillow. The training keeps OpenCV.
test_pipeline = [
    dict(
        type='mmdet_dinov2.LoadImageFromFile',
        imdecode_backend='pillow',
        backend_args=_base_.backend_args,
    ),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True, backend='pillow'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
