"""Datasets of labelme: shapes, and what cannot be read."""

import json

import pytest
from PIL import Image

from mmdet_dinov2.data.own_data import find_own_data
from mmdet_dinov2.errors import InputError


def write(path, shapes, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (40, 30)).save(path.with_suffix('.jpg'))
    content = dict(imagePath=f'{path.stem}.jpg', imageWidth=40, imageHeight=30) | content
    path.write_text(json.dumps(dict(version='5.4.1', shapes=shapes, **content)))


def shape(kind, *points, label='red'):
    return dict(label=label, points=[list(point) for point in points], shape_type=kind)


def find(root):
    return find_own_data(root, root.parent / f'{root.name} cache')


def contents(data):
    return {s: json.loads(open(f.ann_file).read()) for s, f in data.splits.items()}


def test_shapes_become_the_boxes_around_them(tmp_path):
    shapes = [
        shape('rectangle', (11, 7), (1, 2)),
        shape('polygon', (1, 2), (11, 2), (6, 9)),
        shape('circle', (10, 10), (13, 14)),
        shape('rotation', (5, 0), (10, 5), (5, 10), (0, 5)),
        shape('point', (3, 3)),
        shape('line', (3, 3), (4, 4)),
    ]
    write(tmp_path / 'train/0.json', shapes)
    write(tmp_path / 'val/0.json', [])
    data = find(tmp_path)
    found = [entry['bbox'] for entry in contents(data)['train']['annotations']]
    assert found == [[1, 2, 10, 5], [1, 2, 10, 7], [5, 5, 10, 10], [0, 0, 10, 10]]
    assert data.warnings == (
        "shapes without an area are not used: 1 of type 'point', 1 of type 'line'",
    )


def test_pairs_and_splits(tmp_path):
    for index in range(5):
        write(tmp_path / f'{index}.json', [shape('rectangle', (0, 0), (9, 9), label=str(index))])
    (tmp_path / '0.jpg').unlink()
    (tmp_path / '1.jpg').rename(tmp_path / 'one.jpg')
    (tmp_path / '1.json').write_text(
        (tmp_path / '1.json').read_text().replace('"1.jpg"', json.dumps('..\\x\\one.jpg'))
    )
    Image.new('RGB', (4, 4)).save(tmp_path / 'new.jpg')
    data = find(tmp_path)
    alone, bare = data.warnings
    assert '1 of 5 labelme files have no picture' in alone and '0.json' in alone
    assert '1 pictures have no labelme file' in bare and 'new.jpg' in bare
    assert data.classes == ('1', '2', '3', '4')
    images = [image for content in contents(data).values() for image in content['images']]
    assert {image['file_name'] for image in images} == {'one.jpg', '2.jpg', '3.jpg', '4.jpg'}


def test_the_size_of_the_picture_where_the_file_has_none(tmp_path):
    write(tmp_path / 'train/0.json', [shape('rectangle', (0, 0), (9, 9))], imageWidth=None)
    write(tmp_path / 'val/0.json', [])
    (image,) = contents(find(tmp_path))['train']['images']
    assert (image['width'], image['height']) == (40, 30)


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (shape('rectangle', (1, 2)), r'0.json, shape 1 \(red\): expected a list of at least two'),
        (shape('polygon', (1, 2), (3, None)), r'shape 1 \(red\): expected a list .* \[\[1, 2\]'),
        (dict(points=[]), r"shape 1: expected a dict with 'label' and 'points'"),
        (7, r"shape 1: expected a dict with 'label'"),
    ],
)
def test_shapes_that_cannot_be_used(tmp_path, wrong, message):
    write(tmp_path / '0.json', [wrong])
    with pytest.raises(InputError, match=message):
        find(tmp_path)
