"""Parts of the recipe, one at a time, on photos of blood cells.

Command:    mmdet_dinov2 ablate tools/ablations/bccd.py

BCCD (github.com/Shenggan/BCCD_Dataset, MIT) has to be in data/bccd, in COCO's format. The model is
that of the quick start at 336 pixels, the base with the focal loss of the published recipe; all
runs have 728 steps.
"""

_base_ = 'real_time_bccd.py'

classification = 'model.bbox_head.loss_cls'
options = {
    classification: dict(
        _delete_=True, type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0
    )
}
changes = dict(
    _delete_=True,
    mal={classification: dict(_delete_=True, type='MALoss')},
    ia_bce={classification: dict(_delete_=True, type='IABCELoss')},
    carl={'model.bbox_head.carl': dict(k=1.0, bias=0.2)},
    position_cost={
        'model.train_cfg.assigner.match_costs.0': dict(type='PositionModulatedCost', weight=12.0)
    },
    groups={'model.num_query_groups': 4},
    norm_first={
        'model.encoder.layer_cfg.norm_first': True,
        'model.decoder.layer_cfg.norm_first': True,
    },
    look_forward_once={'model.decoder.look_forward_twice': False},
)
