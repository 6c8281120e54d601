import os
from pathlib import Path

import pytest
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine import Config

from mmdet_dinov2.data import Finding, annotation_file, check_config, raise_on_errors
from mmdet_dinov2.errors import InputError

from .helpers import assert_has, coco_content, only


def test_sound_config_gives_no_finding(data):
    assert data.check() == []
    raise_on_errors([])


def test_splits_are_chosen_and_told_in_their_order(data):
    data.path('val').unlink()
    assert data.check('train') == []
    assert {finding.split for finding in data.check()} == {'val', 'test'}
    with pytest.raises(ValueError, match=r"has \['validation'\]"):
        check_config(data.cfg, ('validation',))
    data.train.ann_file = 'none.json'
    data.cfg.test_evaluator.ann_file = 'another.json'
    assert [finding.split for finding in data.check('train', 'test')] == ['train', 'test', 'test']
    assert [finding.split for finding in data.check('test', 'train')] == ['test', 'test', 'train']
    data.cfg.pop('train_dataloader')
    data.cfg.val_dataloader = None
    assert data.check('train', 'val') == []


def test_paths_are_joined_as_mmdet_joins_them(data, monkeypatch):
    monkeypatch.chdir(data.root.parent)
    name = data.root.name
    for paths in (
        dict(data_root=name),
        dict(data_root=f'{name}/'),
        dict(data_root='', ann_file=f'{name}/train.json', data_prefix=dict(img=f'{name}/train/')),
        dict(
            data_root=None,
            ann_file=f'{name}/train.json',
            data_prefix=dict(img=f'{data.root}/train'),
        ),
        dict(
            data_root='elsewhere',
            ann_file=f'{data.root}/train.json',
            data_prefix=dict(img=f'{data.root}/train'),
        ),
    ):
        data.cfg.train_dataloader.dataset = {**data.dataset('train'), **paths}
        assert data.check('train') == []
        dataset = DATASETS.build(data.train)
        assert os.path.exists(dataset.ann_file)
        assert os.path.exists(dataset.get_data_info(0)['img_path'])

    content = coco_content()
    for image in content['images']:
        image['file_name'] = 'train/' + image['file_name']
    data.write('train', content)
    data.cfg.train_dataloader.dataset = {**data.dataset('train'), 'data_prefix': dict(img='')}
    assert data.check('train') == []


def test_wrapped_datasets(data):
    inner = data.dataset('train')
    broken = {**inner, 'ann_file': 'none.json'}
    data.cfg.train_dataloader.dataset = dict(
        type='RepeatDataset',
        times=2,
        dataset=dict(
            type='ClassBalancedDataset',
            oversample_thr=0.1,
            dataset=dict(
                type='ConcatDataset',
                datasets=[inner, dict(type='MultiImageMixDataset', pipeline=[], dataset=broken)],
            ),
        ),
    )
    assert_has(
        only(data.check('train')),
        f"'{data.root}/none.json'",
        '`train_dataloader.dataset.dataset.dataset.datasets.1.dataset.ann_file`',
    )


def test_datasets_of_a_different_format_are_skipped(data):
    data.train.type = 'LVISV1Dataset'
    assert_has(
        only(data.check('train'), 'info'),
        '`train_dataloader.dataset` is not checked, because LVISV1',
    )
    data.train.type = 'VOCDataset'
    assert_has(only(data.check('train'), 'info'), 'VOCDataset')
    data.train.type = CocoDataset
    assert data.check('train') == []
    data.train.type = 'CocoDatsaet'
    assert_has(only(data.check('train')), "`train_dataloader.dataset.type` is 'CocoDatsaet'")


def test_remote_paths_are_skipped(data):
    data.train.data_prefix.img = 's3://bucket/train/'
    assert_has(only(data.check('train'), 'info'), "'s3://bucket/train/' is not on the local disk")
    data.train.data_root = 'https://example.com/data'
    data.train.data_prefix.img = 'train'
    assert_has(only(data.check('train'), 'info'), "'https://example.com/data/train.json' is not")
    data.cfg.model.bbox_head.num_classes = 4
    assert [finding.severity for finding in data.check('train')] == ['error', 'info']


def test_shapes_are_generated_first(tmp_path):
    root = tmp_path / 'shapes'
    dataset = dict(
        type='ShapesDataset',
        data_root=str(root),
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        generate=dict(num_train=3, num_val=1),
    )
    cfg = Config(
        dict(model=dict(bbox_head=dict(num_classes=5)), train_dataloader=dict(dataset=dataset))
    )
    assert check_config(cfg) == []
    assert (root / 'train' / '000003.jpg').exists()

    cfg.train_dataloader.dataset.generate.seed = 1
    assert_has(only(check_config(cfg)), f"'{root}' was generated with", 'seed=0', 'seed=1')
    cfg.train_dataloader.dataset.generate = dict(sede=1)
    assert_has(only(check_config(cfg)), "the unknown keys ['sede']")


def test_files_and_folders_are_read_once(data, monkeypatch):
    parsed, listed = [], []
    read, scandir = annotation_file._Reader.read, os.scandir
    monkeypatch.setattr(
        annotation_file._Reader, 'read', lambda self: parsed.append(Path(self._path)) or read(self)
    )
    monkeypatch.setattr(annotation_file, '_TICK', 0)
    monkeypatch.setattr(os, 'scandir', lambda path: listed.append(path) or scandir(path))
    assert data.check() == []
    assert [path.name for path in parsed] == ['train.json', 'val.json']
    assert [Path(path).name for path in listed] == ['train', 'val']


def test_raise_on_errors_lists_errors_first():
    findings = [
        Finding('warning', 'train', 'few boxes'),
        Finding('info', 'val', 'remote'),
        Finding('error', 'val', 'no file'),
        Finding('error', 'train', 'no class'),
    ]
    with pytest.raises(InputError) as error:
        raise_on_errors(findings)
    assert str(error.value).splitlines() == [
        'the dataset check found 2 errors:',
        '  error [val]: no file',
        '  error [train]: no class',
        '  warning [train]: few boxes',
    ]
    raise_on_errors(findings[:2])
