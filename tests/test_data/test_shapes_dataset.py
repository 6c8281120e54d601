import json

import pytest
from mmdet.registry import DATASETS
from mmengine import ConfigDict

from mmdet_dinov2.data import ShapesDataset
from mmdet_dinov2.data.shapes_dataset import ensure_shapes
from mmdet_dinov2.data.shapes_drawing import CLASSES
from mmdet_dinov2.errors import InputError


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
    with pytest.raises(InputError, match='num_val=2.*num_val=3.*`generate`'):
        DATASETS.build(other)
