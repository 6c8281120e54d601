"""DINO, fine-tuned DINOv3-S/16 with windows, 12 epochs of COCO.

Command:    tools/dist_train.sh configs/dino_dinov3_s_ft_12ep.py 4
Batch:      4 GPUs x 4 images x 1 accumulation step = 16
Reference:  none published with DINO; the settings are those of dino_dinov2_b_ft_12ep.py
Licence:    DINOv3 License, for the weights and on our reading for what is trained from them
"""

_base_ = [
    '_base_/models/dino_dinov3_s_ft.py',
    '_base_/datasets/coco_detection.py',
    '_base_/augmentations/detr.py',
    '_base_/schedules/adamw_ft_dinov3.py',
    '_base_/schedules/step_12ep_warmup.py',
    '_base_/default_runtime.py',
]

train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))
