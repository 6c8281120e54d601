"""Parts of the recipe, one at a time, on the quick start.

Command:    mmdet_dinov2 ablate tools/ablations/quickstart.py

The base has the focal loss of the published recipe, and no part.
"""

config = 'dino_dinov2_quickstart'
seeds = [0, 1, 2]
classification = 'model.bbox_head.loss_cls'
options = {
    classification: dict(
        _delete_=True, type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0
    )
}

loading = [
    dict(type='mmdet_dinov2.LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoiceResize',
        scales=[(side, side) for side in (140, 154, 168)],
        keep_ratio=True,
    ),
]
# The last 3 of 14 epochs do not mix.
unmixed = [
    dict(
        type='PipelineSwitchHook',
        switch_epoch=11,
        switch_pipeline=[*loading, dict(type='PackDetInputs')],
    )
]


def mixed(transform, *after):
    """Returns the settings of a training with half of the images mixed."""
    mix = dict(type='MixSamples', transform=transform, pre_transform=loading)
    half = dict(type='RandomApply', transforms=[mix, *after], prob=0.5)
    return {
        'train_dataloader.dataset.pipeline': [
            *loading,
            half,
            dict(type='PackWeightedDetInputs'),
        ],
        'custom_hooks': unmixed,
    }


# That of the quick start, with the probability lowered where boxes are far apart.
near = dict(type='PositionModulatedCost', weight=12.0)
mosaic = dict(type='Mosaic', img_scale=(84, 84), pad_val=114.0)
inside = dict(type='FilterAnnotations', min_gt_bbox_wh=(2, 2), keep_empty=False)
changes = dict(
    mal={classification: dict(_delete_=True, type='MALoss')},
    ia_bce={classification: dict(_delete_=True, type='IABCELoss')},
    carl={'model.bbox_head.carl': dict(k=1.0, bias=0.2)},
    position_cost={'model.train_cfg.assigner.match_costs.0': near},
    groups={'model.num_query_groups': 4},
    mixup=mixed(dict(type='BoxMixUp', alpha=1.5)),
    cutmix=mixed(dict(type='BoxCutMix', alpha=1.0)),
    mosaic=mixed(mosaic, inside),
    norm_first={
        'model.encoder.layer_cfg.norm_first': True,
        'model.decoder.layer_cfg.norm_first': True,
    },
    look_forward_once={'model.decoder.look_forward_twice': False},
)
