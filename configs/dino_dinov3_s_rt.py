"""DINO for real time, fine-tuned DINOv3-S/16 with windows, for your own data.

Command:    mmdet_dinov2 train dino_dinov3_s_rt --data PATH
            and --cfg-options longest_side=384 for speed, 640 for small objects (default: 512)
Batch:      1 GPU x 4 images x 1 accumulation step = 4
Learning:   as dino_dinov2_s_rt.py
Reference:  none published with DINO
Licence:    DINOv3 License, for the weights and on our reading for what is trained from them
"""

_base_ = 'dino_dinov2_s_rt.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='DINOv3',
        arch='small',
        patch_size=16,
        drop_path_rate=0.1,
        window_size=16,
        global_attn_indexes=[3, 7, 11],
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://dl.fbaipublicfiles.com/dinov3/dinov3_vits16/'
            'dinov3_vits16_pretrain_lvd1689m-08c60483.pth',
        ),
    )
)
# As in _base_/schedules/adamw_ft_dinov3.py.
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(_delete_=True, _token=dict(decay_mult=0.0)))
)
