"""DINO, fine-tuned DINOv2-L/14 at patch 16 with windows, 12 epochs of COCO.

Command:    tools/dist_train.sh configs/dino_dinov2_l_ft_12ep.py 4
Batch:      4 GPUs x 4 images x 1 accumulation step = 16
Reference:  none published with DINOv2; box AP of similar recipes in detrex: EVA-02-L with LSJ 1024
            58.9, MAE ViT-L 52.9
"""

_base_ = [
    '_base_/models/dino_dinov2_l_ft.py',
    '_base_/datasets/coco_detection.py',
    '_base_/augmentations/detr.py',
    '_base_/schedules/adamw_ft.py',
    '_base_/schedules/step_12ep_warmup.py',
    '_base_/default_runtime.py',
]

train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.8))
