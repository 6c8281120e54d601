import os

from mmengine import ConfigDict

from mmdet_dinov2.data import fill_evaluator_ann_file

from .helpers import assert_has, only


def test_evaluator_of_a_different_file(data):
    data.cfg.val_evaluator = [dict(type='CocoMetric', ann_file=str(data.path('train')))]
    assert_has(
        only(data.check(), split='val'),
        f"`val_evaluator.0.ann_file` is '{data.path('train')}'",
        f"`val_dataloader.dataset` reads '{data.path('val')}'",
    )
    data.cfg.val_evaluator[0].ann_file = os.path.relpath(data.path('val'))
    assert data.check() == []
    del data.cfg.val_evaluator[0]['ann_file']
    assert data.check() == []


def test_fill_evaluator_ann_file(data):
    shared = [ConfigDict(type='CocoMetric', metric='bbox')]
    data.cfg.val_evaluator = data.cfg.test_evaluator = shared
    assert data.cfg.val_evaluator[0] is data.cfg.test_evaluator[0]
    data.cfg.test_dataloader.dataset.ann_file = 'other.json'
    assert fill_evaluator_ann_file(data.cfg) is None
    filled = dict(type='CocoMetric', metric='bbox', ann_file=str(data.path('val')))
    assert data.cfg.val_evaluator == [filled]
    assert data.cfg.test_evaluator == [{**filled, 'ann_file': str(data.root / 'other.json')}]

    data.cfg.val_evaluator = dict(type='CocoMetric', metric='bbox')
    fill_evaluator_ann_file(data.cfg)
    assert data.cfg.val_evaluator == filled


def test_fill_leaves_other_evaluators_alone(data):
    data.cfg.val_evaluator = [
        dict(type='mmdet.CocoMetric'),
        dict(type='CocoMetric', ann_file='mine.json'),
        dict(type='VOCMetric'),
    ]
    data.cfg.test_evaluator = dict(type='CocoMetric')
    data.cfg.test_dataloader.dataset.type = 'VOCDataset'
    fill_evaluator_ann_file(data.cfg)
    assert data.cfg.val_evaluator == [
        dict(type='mmdet.CocoMetric', ann_file=str(data.path('val'))),
        dict(type='CocoMetric', ann_file='mine.json'),
        dict(type='VOCMetric'),
    ]
    assert data.cfg.test_evaluator == dict(type='CocoMetric')

    two = dict(type='ConcatDataset', datasets=[data.dataset('train'), data.dataset('val')])
    data.cfg.test_dataloader.dataset = two
    data.cfg.val_evaluator = data.cfg.val_dataloader = None
    fill_evaluator_ann_file(data.cfg)
    assert data.cfg.test_evaluator == dict(type='CocoMetric') and data.cfg.val_evaluator is None
