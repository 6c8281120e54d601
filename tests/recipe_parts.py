"""Parts of a recipe that are off by default, for tests that compare runs and batches."""

from __future__ import annotations

import copy

from mmdet.registry import MODELS
from torch import nn

from .tiny import detector_cfg, randomize

# Options of a detector, by dotted name.
PARTS: dict[str, dict] = {
    'ia_bce': {'bbox_head.loss_cls': dict(type='IABCELoss')},
    'mal': {'bbox_head.loss_cls': dict(type='MALoss')},
    'carl': {'bbox_head.carl': dict(k=1.0, bias=0.2)},
    'position_cost': {
        'train_cfg.assigner.match_costs': [
            dict(type='PositionModulatedCost', weight=2.0),
            dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
            dict(type='IoUCost', iou_mode='giou', weight=2.0),
        ]
    },
    'groups': {'num_query_groups': 3},
    'norm_first': {
        'encoder.layer_cfg.norm_first': True,
        'decoder.layer_cfg.norm_first': True,
    },
    'look_forward_once': {'decoder.look_forward_twice': False},
}
TOGETHER = {key: value for part in PARTS.values() for key, value in part.items()}

# The same for a config file of tests.tools.write_config.
TOGETHER_TEXT = """
model.update(num_query_groups=3)
model['bbox_head'].update(
    loss_cls=dict(_delete_=True, type='MALoss'), carl=dict(k=1.0, bias=0.2))
model['encoder']['layer_cfg'].update(norm_first=True)
model['decoder']['layer_cfg'].update(norm_first=True)
single = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomChoiceResize', scales=[(56, 56), (70, 70)], keep_ratio=True)]
mixes = [dict(type='BoxMixUp'), dict(type='BoxCutMix'), dict(type='Mosaic', img_scale=(42, 42))]
mixed = [
    *single,
    dict(type='RandomChoice', transforms=[
        [dict(type='MixSamples', transform=mix, pre_transform=single)] for mix in mixes]),
    dict(type='PackWeightedDetInputs')]
train_dataloader['dataset'] = dict(dataset, pipeline=mixed)
"""


def detector_with(options: dict, num_queries: int = 20) -> nn.Module:
    """Builds the tiny detector with options, and random weights."""
    cfg = detector_cfg(num_queries=num_queries)
    for name, value in copy.deepcopy(options).items():
        *path, key = name.split('.')
        place = cfg
        for step in path:
            place = place[step]
        place[key] = value
    model = MODELS.build(cfg)
    model.init_weights()
    return randomize(model, std=0.1)
