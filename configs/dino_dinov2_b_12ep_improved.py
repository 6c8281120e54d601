"""DINO with the "improved" settings of mmdet, frozen DINOv2-B/14 at patch 16, 12 epochs of COCO.

Command:    tools/dist_train.sh configs/dino_dinov2_b_12ep_improved.py 4
Batch:      4 GPUs x 4 images x 1 accumulation step = 16
Reference:  none published with DINOv2; with ResNet-50: +1.1, to 50.1 (mmdet, configs/dino)
"""

_base_ = 'dino_dinov2_b_12ep.py'

model = dict(
    bbox_head=dict(loss_cls=dict(loss_weight=2.0)),
    dn_cfg=dict(group_cfg=dict(num_dn_queries=300)),
)
optim_wrapper = dict(
    optimizer=dict(lr=2e-4),
    # mmdet: also reference_points, a name that no parameter of DINO has.
    paramwise_cfg=dict(custom_keys={'sampling_offsets': dict(lr_mult=0.1)}),
)
