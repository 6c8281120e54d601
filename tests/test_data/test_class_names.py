import pytest

from mmdet_dinov2.data.class_names import fill_classes
from mmdet_dinov2.errors import InputError

from .helpers import NAMES, coco_content


def test_classes_and_their_number_come_from_the_data(data):
    content = coco_content(names=(*NAMES, 'wolf'))
    content['categories'].reverse()
    data.write('train', content)
    data.write('val', coco_content(names=(*NAMES, 'wolf')))
    for split in ('train', 'val', 'test'):
        dataset = data.cfg[f'{split}_dataloader'].dataset
        dataset.type = 'ClassNameCocoDataset'
        dataset.metainfo.classes = 'auto'
    data.cfg.model.bbox_head.num_classes = 'auto'
    expected = ('wolf', 'red fox', 'dog', 'cat')
    assert fill_classes(data.cfg) == expected
    assert data.cfg.model.bbox_head.num_classes == 4
    assert data.cfg.test_dataloader.dataset.metainfo.classes == expected
    assert {finding.severity for finding in data.check()} == {'info'}
    assert fill_classes(data.cfg) is None


def test_the_number_follows_listed_classes(data):
    data.cfg.model.bbox_head.num_classes = 'auto'
    assert fill_classes(data.cfg) is None
    assert data.cfg.model.bbox_head.num_classes == 3
    data.cfg.train_dataloader.dataset = dict(type='CocoDataset', ann_file='none.json')
    data.cfg.model.bbox_head.num_classes = 'auto'
    fill_classes(data.cfg)
    assert data.cfg.model.bbox_head.num_classes == 80


def test_what_cannot_be_filled_in(data):
    data.train.metainfo.classes = 'auto'
    data.path('train').unlink()
    with pytest.raises(FileNotFoundError, match='train.json'):
        fill_classes(data.cfg)
    data.write('train', dict(coco_content(), categories=[], annotations=[]))
    with pytest.raises(InputError, match='list no categories'):
        fill_classes(data.cfg)
    del data.train['ann_file']
    with pytest.raises(
        InputError, match='`train_dataloader.dataset.ann_file`, which has the classes, is not'
    ):
        fill_classes(data.cfg)
    data.cfg.pop('train_dataloader')
    data.cfg.val_dataloader = data.cfg.test_dataloader = None
    data.cfg.model.bbox_head.num_classes = 'auto'
    with pytest.raises(InputError, match='the config has no dataset'):
        fill_classes(data.cfg)
