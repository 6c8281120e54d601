"""DINO with masks, frozen DINOv2-B/14 at patch 16, simple feature pyramid, 50 epochs of COCO.

Command:    tools/dist_train.sh configs/dino_dinov2_b_50ep_seg.py 4
Batch:      4 GPUs x 4 images x 1 accumulation step = 16
Reference:  none published with DINOv2; Mask DINO with ResNet-50: 46.3 mask AP, 51.7 box AP
"""

_base_ = ['dino_dinov2_b_50ep.py', '_base_/masks.py']

model = dict(
    mask_head=_base_.mask_head,
    train_cfg=dict(
        assigner=dict(
            match_costs=[
                *_base_.model.train_cfg.assigner.match_costs,
                *_base_.mask_match_costs,
            ]
        )
    ),
)
train_pipeline = [
    _base_.train_pipeline[0],
    _base_.load_masks,
    *_base_.train_pipeline[2:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_evaluator = dict(metric=_base_.mask_metrics)
test_evaluator = val_evaluator
