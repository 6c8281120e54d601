"""A small model with masks on the sample dataset, from random weights, for a CPU with 2 cores.

Command:    mmdet_dinov2 train dino_dinov2_seg_quickstart
Batch:      1 process x 8 images x 1 accumulation step = 8
"""

_base_ = ['dino_dinov2_quickstart.py', '_base_/masks.py']

model = dict(
    mask_head=dict(mask_dims=32, num_upsamples=2),  # cells of 3.5 pixels
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
