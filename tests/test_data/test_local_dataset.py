"""Datasets of configs from elsewhere are reduced to local files."""

import sys

import pytest

from mmdet_dinov2.data.local_dataset import with_local_datasets
from mmdet_dinov2.errors import InputError

DATASET = dict(
    type='mmdet.CocoDataset',
    data_root='data/',
    ann_file='a.json',
    data_prefix=dict(img='images/', proposals='x'),
    metainfo=dict(classes=['cat', 'dog'], x='http://nowhere/'),
    pipeline=[dict(type='os.system', command='touch x')],
    proposal_file='x.pkl',
    filter_cfg=dict(min_size=3),
)


def reduced(**values):
    loader = dict(batch_size=4, sampler=dict(type='os.system'), dataset=dict(DATASET, **values))
    cfg = dict(
        val_dataloader=loader, train_dataloader=None, test_dataloader=dict(dataset=dict(type='x'))
    )
    return with_local_datasets(cfg, 'x.pth', ('train', 'val'))


def test_only_files_and_classes_are_kept():
    assert reduced() == dict(
        val_dataloader=dict(
            batch_size=4,
            dataset=dict(
                type='mmdet.CocoDataset',
                data_root='data/',
                ann_file='a.json',
                data_prefix=dict(img='images/'),
                metainfo=dict(classes=('cat', 'dog')),
                test_mode=True,
            ),
        )
    )
    wrapped = dict(type='evil.Repeat', dataset=dict(DATASET, type='ClassNameCocoDataset'))
    found = with_local_datasets(dict(val_dataloader=dict(dataset=wrapped)), 'x.pth', ('val',))
    assert found['val_dataloader']['dataset']['type'] == 'ClassNameCocoDataset'


@pytest.mark.parametrize(
    'kind',
    ['evil.CocoDataset', 'mmdet.evil.CocoDataset', 'evil', 'os.system', 'LVISV1Dataset',
     'CityscapesDataset.evil', dict, None],
)  # fmt: skip
def test_other_kinds_are_refused_and_not_imported(kind, tmp_path, monkeypatch):
    (tmp_path / 'evil.py').write_text('raise RuntimeError\n')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match='`val_dataloader.dataset.type` in x.pth is '):
        reduced(type=kind)
    assert 'evil' not in sys.modules


@pytest.mark.parametrize(
    'values',
    [
        dict(ann_file='s3://bucket/a.json'),
        dict(data_root='http://nowhere/'),
        dict(data_prefix=dict(img='http://nowhere/')),
        dict(backend_args=dict(backend='memcached', sys_path='x')),
        dict(metainfo=dict(classes='http://nowhere/')),
        dict(ann_file=['a.json']),
    ],
    ids=str,
)
def test_what_is_not_on_the_local_disk_is_refused(values):
    with pytest.raises(InputError, match='not on the local disk|by other than texts'):
        reduced(**values)
