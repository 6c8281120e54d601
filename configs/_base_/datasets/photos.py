"""Photos of a folder without labels: two global and eight local crops of each (DINOv2).

Give the folder with ``--cfg-options train_dataloader.dataset.data_root=FOLDER``. Augmentations must
keep what tells your classes apart: where that is the colour, take ``hue`` out, and where it is the
side, the flip.
"""

flip = dict(type='RandomFlip', prob=0.5)
colours = [
    dict(
        type='RandomApply',
        prob=0.8,
        transforms=[
            dict(
                type='mmpretrain.ColorJitter',
                brightness=0.4,
                contrast=0.4,
                saturation=0.2,
                hue=0.1,
                backend='cv2',
            )
        ],
    ),
    # Weights of blue, green and red.
    dict(
        type='RandomGrayscale',
        prob=0.2,
        keep_channels=True,
        channel_weights=(0.114, 0.587, 0.2989),
    ),
]
blur = dict(type='mmpretrain.GaussianBlur', magnitude_range=(0.1, 2.0), magnitude_std='inf')
global_crop = dict(
    type='mmpretrain.RandomResizedCrop',
    scale=224,
    crop_ratio_range=(0.32, 1.0),
    interpolation='bicubic',
)
local_crop = dict(
    type='mmpretrain.RandomResizedCrop',
    scale=98,
    crop_ratio_range=(0.05, 0.32),
    interpolation='bicubic',
)

train_pipeline = [
    dict(type='mmdet_dinov2.LoadImageFromFile'),
    dict(
        type='mmpretrain.MultiView',
        num_views=[1, 1, 8],
        transforms=[
            [global_crop, flip, *colours, dict(blur, prob=1.0)],
            [
                global_crop,
                flip,
                *colours,
                dict(blur, prob=0.1),
                dict(type='mmpretrain.Solarize', thr=128, prob=0.2),
            ],
            [local_crop, flip, *colours, dict(blur, prob=0.5)],
        ],
    ),
    dict(type='PackCrops', patch_size=14, mask_prob=0.5, mask_ratio=(0.1, 0.5)),
]

train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='PhotoFolder', data_root='data/photos', pipeline=train_pipeline),
)
