import json

import pytest
from mmdet.registry import DATASETS
from mmengine import Config, ConfigDict

from mmdet_dinov2.data import ShapesDataset, check_config
from mmdet_dinov2.data.shapes_dataset import ensure_shapes, make_sample_data
from mmdet_dinov2.data.shapes_drawing import CLASSES
from mmdet_dinov2.errors import InputError

from .helpers import Data


def shapes_config(root, split='train', **kwargs):
    return ConfigDict(
        type='ShapesDataset',
        data_root=str(root),
        ann_file=f'annotations/{split}.json',
        data_prefix=dict(img=f'{split}/'),
        generate=dict(num_train=5, num_val=2),
        **kwargs,
    )


def test_made_on_first_use(tmp_path):
    dataset = DATASETS.build(shapes_config(tmp_path / 'shapes', lazy_init=True))
    assert not any(tmp_path.iterdir())
    dataset.full_init()
    assert isinstance(dataset, ShapesDataset) and len(dataset) == 5
    validation = DATASETS.build(shapes_config(tmp_path / 'shapes', 'val', test_mode=True))
    assert len(validation) == 2
    assert dataset.metainfo['classes'] == CLASSES
    assert len(dataset.metainfo['palette']) == len(CLASSES)


def test_labels_are_indices_of_the_classes(tmp_path):
    dataset = DATASETS.build(shapes_config(tmp_path / 'shapes'))
    content = json.loads((tmp_path / 'shapes/annotations/train.json').read_text())
    names = {category['id']: category['name'] for category in content['categories']}
    expected = [names[annotation['category_id']] for annotation in content['annotations']]
    labels = [
        instance['bbox_label']
        for index in range(len(dataset))
        for instance in dataset[index]['instances']
    ]
    assert [dataset.metainfo['classes'][label] for label in labels] == expected


@pytest.mark.parametrize(
    ('generate', 'message'),
    [
        (dict(num_trian=3), r"unknown keys \['num_trian'\]; it takes num_train, num_val, seed"),
        (dict(root='x'), r"unknown keys \['root'\]"),
        (7, '`generate` of ShapesDataset must be a dict, but is 7'),
    ],
)
def test_unknown_keys_raise_before_anything_is_read(tmp_path, generate, message):
    with pytest.raises(InputError, match=message):
        ShapesDataset(data_root=str(tmp_path / 'shapes'), generate=generate, lazy_init=True)


@pytest.mark.parametrize('data_root', ['', None])
def test_needs_a_folder(data_root):
    with pytest.raises(InputError, match=f'data_root is {data_root!r}; set it to a folder'):
        ShapesDataset(data_root=data_root, ann_file='annotations/train.json')


def test_needs_a_local_folder():
    with pytest.raises(InputError, match="data_root is 's3://b/shapes'; set it to a folder"):
        ensure_shapes('s3://b/shapes', None)


def test_datasets_of_one_folder_need_the_same_arguments(tmp_path):
    DATASETS.build(shapes_config(tmp_path / 'shapes'))
    other = shapes_config(tmp_path / 'shapes', 'val')
    other.generate = dict(num_train=5, num_val=3)
    with pytest.raises(InputError, match='num_val=2.*num_val=3.*`sample_data`'):
        DATASETS.build(other)


CHILD = """
_base_ = '{root}/configs/dino_dinov2_quickstart.py'
sample_data = dict(root='{folder}/shapes/', num_train=4, num_val=2)
train_dataloader = dict(dataset=dict(data_root='{folder}/shapes/'))
val_dataloader = dict(dataset=dict(data_root='{folder}/shapes/'))
test_dataloader = val_dataloader
"""
OWN = """
own = dict(data_root='{folder}/', ann_file='{split}.json', data_prefix=dict(img='{split}/'),
           metainfo=dict(classes=('cat', 'dog', 'red fox')))
train_dataloader = dict(dataset=dict({type}**own))
val_dataloader = dict(dataset=dict({type}**own))
test_dataloader = val_dataloader
model = dict(bbox_head=dict(num_classes=3))
"""


def child_config(tmp_path, root, extra=''):
    (tmp_path / 'child.py').write_text(CHILD.format(root=root, folder=tmp_path) + extra)
    return Config.fromfile(tmp_path / 'child.py')


def test_the_sample_data_are_an_ordinary_dataset(tmp_path, root):
    cfg = child_config(tmp_path, root)
    assert cfg.train_dataloader.dataset.type == 'ClassNameCocoDataset'
    assert cfg.train_dataloader.dataset.metainfo.classes == CLASSES
    assert check_config(cfg) == []
    assert len(DATASETS.build(cfg.train_dataloader.dataset)) == 4
    assert len(DATASETS.build(cfg.val_dataloader.dataset)) == 2
    cfg.sample_data.num_train = 5
    (error, *_) = check_config(cfg, ['train'])
    assert (
        'num_train=4' in error.message and 'use the same arguments (`sample_data`' in error.message
    )


@pytest.mark.parametrize('type_', ['', "type='CocoDataset', "])
def test_own_files_in_a_config_based_on_it(tmp_path, root, type_):
    Data(tmp_path)  # train.json, val.json and their images
    own = OWN.format(folder=tmp_path, split='train', type=type_)
    cfg = child_config(tmp_path, root, own)
    assert check_config(cfg, ['train']) == []
    assert len(DATASETS.build(cfg.train_dataloader.dataset)) == 3
    assert not (tmp_path / 'shapes').exists()
    # Without the folder of the files: what to set.
    cfg.train_dataloader.dataset.data_root = str(tmp_path / 'shapes')
    (error,) = check_config(cfg, ['train'])
    assert 'train.json' in error.message and '`train_dataloader.dataset.data_root`' in error.message
    assert not (tmp_path / 'shapes').exists()


@pytest.mark.parametrize('sample', [7, dict(num_train=3)])
def test_sample_data_need_a_root(tmp_path, sample):
    with pytest.raises(InputError, match='`sample_data` must be a dict with a root, but is'):
        make_sample_data(dict(sample_data=sample))
