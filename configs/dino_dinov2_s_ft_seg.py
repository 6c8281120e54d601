"""DINO with masks, fine-tuned DINOv2-S/14 at patch 16 with windows, for your own data.

Command:    mmdet_dinov2 train dino_dinov2_s_ft_seg --data PATH
Batch:      1 GPU x 4 images x 1 accumulation step = 4
Learning:   as dino_dinov2_s_ft, whose trained detector is a start: load_from=CHECKPOINT
Reference:  none published
"""

_base_ = ['dino_dinov2_s_ft.py', '_base_/masks.py']

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
