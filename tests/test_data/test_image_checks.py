"""Images of odd formats, depths and shapes in datasets and in their check."""

import json

import numpy as np
import pytest
from mmdet.registry import DATASETS
from PIL import Image

from mmdet_dinov2.data import BadImageError
from mmdet_dinov2.data.full_check import check_dataset
from mmdet_dinov2.data.seeded import SeededDataset, SeededIndex
from mmdet_dinov2.sample_meta import bad_images

from .helpers import Data, assert_has, only
from .images import encoded, jpeg, picture, tiff

PIPELINE = [
    dict(type='mmdet_dinov2.LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(60, 60), keep_ratio=True),
    dict(type='PackDetInputs'),
]


@pytest.fixture
def data(tmp_path):
    """A sound dataset, whose images all differ."""
    data = Data(tmp_path)
    for number, split in enumerate(('train', 'val')):
        for index in range(3):
            (tmp_path / split / f'{index}.jpg').write_bytes(jpeg(seed=3 * number + index))
    for split in ('train', 'val', 'test'):
        data.cfg[f'{split}_dataloader'].dataset.type = 'ClassNameCocoDataset'
        data.cfg[f'{split}_dataloader'].dataset.pipeline = PIPELINE
    return data


def problems(data, *splits):
    found = check_dataset(data.cfg, splits, workers=2).findings
    return [finding for finding in found if finding.severity != 'fact']


def sizes(data, split, *pairs):
    """Changes the sizes of images in the annotation file."""
    content = json.loads(data.path(split).read_text())
    for index, (width, height) in pairs:
        content['images'][index].update(width=width, height=height)
    data.write(split, content)


@pytest.mark.parametrize(
    'write',
    [
        lambda size: encoded(picture(*size), 'JPEG', 6),
        lambda size: encoded(picture(*size), 'PNG', 6),
        lambda size: encoded(picture(*size), 'WEBP', 6),
        lambda size: encoded(picture(*size), 'TIFF', 6),
        lambda size: tiff(np.asarray(picture(*size)).astype(np.uint16) << 8, 6),
    ],
    ids=['JPEG', 'PNG', 'WebP', 'TIFF', 'TIFF, 16 bits'],
)
@pytest.mark.parametrize('annotated', ['shown', 'stored', 'wrong'])
def test_the_check_says_what_is_loaded(data, write, annotated):
    (data.root / 'train' / '1.jpg').write_bytes(write((40, 30)))
    size = dict(shown=(30, 40), stored=(40, 30), wrong=(31, 40))[annotated]
    sizes(data, 'train', (1, size))
    found = [finding for finding in problems(data, 'train') if 'bits' not in finding.message]
    if annotated == 'shown':
        assert found == []
    elif annotated == 'stored':
        assert_has(only(found, 'info'), "'1.jpg (6)'", 'loaded without it')
    else:
        assert_has(only(found), "'1.jpg: 31 x 40, but is 30 x 40'")
    sample = DATASETS.build(data.train)[1]
    # The corner that is black as stored is at the top right once the image is turned.
    shape = (30, 40) if annotated == 'stored' else (40, 30)
    assert sample['data_samples'].ori_shape == shape
    pixels = sample['inputs'].float().mean(0)
    height, width = (side // 2 for side in pixels.shape)
    corners = [pixels[:height, :width], pixels[:height, width:]]
    assert np.argmin([float(corner.mean()) for corner in corners]) == (annotated != 'stored')


def test_images_of_more_than_8_bits_are_named(data):
    values = np.linspace(100, 4095, 30 * 40).astype(np.uint16).reshape(30, 40)
    (data.root / 'train' / '1.jpg').write_bytes(tiff(values))
    assert_has(
        only(problems(data, 'train'), 'info'),
        '1 of 3 images have values of more than 8 bits',
        "'1.jpg: 16 bits, 100 to 4095'",
        'its lowest value becomes 0 and its highest 255',
    )


@pytest.mark.parametrize('size', [(3000, 2), (2, 3000), (150, 1)])
def test_images_that_cannot_be_resized_are_bad_images(data, size):
    for split in ('train', 'val'):
        Image.new('RGB', size, 'red').save(data.root / split / '1.jpg', 'PNG')
        sizes(data, split, (1, size))
    train = DATASETS.build(data.train)
    with pytest.raises(BadImageError, match=r'train/1\.jpg'):
        train[1]
    sample = SeededDataset(train)[SeededIndex(1, 5)]['data_samples']
    assert sample.img_id in (10, 12)
    assert [path for path, _ in bad_images([sample])] == [str(data.root / 'train' / '1.jpg')]
    val = DATASETS.build(data.cfg.val_dataloader.dataset)
    samples = [val[index]['data_samples'] for index in range(3)]
    assert [path for path, _ in bad_images(samples)] == [str(data.root / 'val' / '1.jpg')]
    if max(size) == 3000:  # the other one could be resized to 100 pixels
        found = only([f for f in problems(data, 'train') if f.severity == 'error'])
        assert_has(found, '1 of 3 images cannot be read', 'cut it into pieces')
