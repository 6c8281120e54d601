"""Annotation files: what is not of COCO's form, what other fields say, and which boxes count."""

import functools
import json
import random

import pytest
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from mmdet_dinov2.data.annotation_file import read_annotations
from mmdet_dinov2.data.box_counts import count_boxes
from mmdet_dinov2.errors import InputError

from ..columns import columns_of_entries
from .helpers import assert_has, coco_content, only


def test_missing_annotation_file(data):
    data.train.ann_file = 'annotations/trian.json'
    assert_has(
        only(data.check('train')),
        f"'{data.root}/annotations/trian.json' does not exist",
        f"`train_dataloader.dataset.data_root` (now '{data.root}')",
        "`train_dataloader.dataset.ann_file` (now 'annotations/trian.json')",
    )
    data.train.ann_file = 'train'
    assert_has(only(data.check('train')), 'is a folder, not a file')
    data.train.ann_file = ''
    assert_has(only(data.check('train')), '`train_dataloader.dataset.ann_file` is not set')


def delete(*keys):
    def change(content):
        inner = functools.reduce(lambda value, key: value[key], keys[:-1], content)
        del inner[keys[-1]]

    return change


@pytest.mark.parametrize(
    ('change', 'facts'),
    [
        (delete('categories'), ["lacks the key 'categories'", "'images', 'annotations'"]),
        (delete('images'), ["lacks the key 'images'"]),
        (delete('annotations'), ["no 'annotations'"]),
        (delete('images', 1, 'width'), ["lacks 'width' in images[1]"]),
        (delete('categories', 0, 'name'), ["lacks 'name' in categories[0]"]),
        (delete('annotations', 2, 'area'), ["lacks 'area' in 1 annotations (first id 3)"]),
        (
            lambda content: content.update(images={}),
            ["must have a list as 'images', but has a dict"],
        ),
        (
            lambda content: content['annotations'][1].update(bbox=[1, 2, 3]),
            ['id 2', '[1, 2, 3]', 'four finite numbers'],
        ),
        (
            lambda content: content['annotations'][1].update(bbox=[1, 2, 3, float('nan')]),
            ['id 2', '[1, 2, 3, nan]'],
        ),
        (
            lambda content: content['annotations'][1].update(bbox=[1, 2, 3, 10**400]),
            ['id 2', 'four finite numbers'],
        ),
        (lambda content: content['annotations'][1].update(area=None), ['id 2', 'area None']),
        (lambda content: content['annotations'][1].update(iscrowd='0'), ["iscrowd '0'", '0 or 1']),
        (lambda content: content['annotations'][1].update(id=[1]), ['id [1]', 'annotations[1]']),
        (
            lambda content: content['annotations'][1].update(id=1),
            ["more than once in 'annotations'"],
        ),
        (lambda content: content['images'][1].update(id=10), ["more than once in 'images'", '10']),
        (lambda content: content['categories'][1].update(id=7), ["more than once in 'categories'"]),
        (lambda content: content['images'][1].update(width=0), ['width 0', 'a positive number']),
        (lambda content: content['images'][1].update(file_name=3), ['file_name 3', 'images[1]']),
        (lambda content: content['images'].append('x.jpg'), ["lacks 'file_name'", 'images[3]']),
        (
            lambda content: content['images'].extend([{}, 7]),
            ["lacks 'file_name'", 'images[3]', "1 more such entries: 'images[4]'"],
        ),
        (lambda content: content['categories'][0].update(name=None), ['name None', 'a name']),
    ],
)
def test_not_of_coco_form(data, change, facts):
    content = coco_content()
    change(content)
    data.write('train', content)
    assert_has(only(data.check('train')), f"'{data.path('train')}'", *facts)


def test_not_json(data):
    data.path('train').write_text('{"images": [')
    assert_has(only(data.check('train')), f"'{data.path('train')}' is not valid JSON (", 'line 1')
    data.path('train').write_text('[' * 100_000)
    assert_has(only(data.check('train')), f"'{data.path('train')}' is not valid JSON (")
    data.path('train').write_bytes(b'\xff\xfe{}')
    assert_has(only(data.check('train')), f"'{data.path('train')}' is not valid JSON (")
    data.path('train').write_text('[]')
    assert_has(only(data.check('train')), 'but holds a list')


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_files_of_windows(data, encoding):
    text = json.dumps(coco_content(names=('Katze', 'grüner Hund', '狐')), ensure_ascii=False)
    data.path('train').write_text(text, encoding)
    assert read_annotations(str(data.path('train'))).category_names == [
        'Katze',
        'grüner Hund',
        '狐',
    ]


@pytest.mark.parametrize('box', [None, [], [0, 0, 0, 0], 'absent'])
def test_boxes_come_from_the_segmentation_where_they_are_missing(data, box):
    content = coco_content()
    for annotation in content['annotations'][:4]:
        annotation.update(bbox=box, segmentation=[[1, 2, 11, 2, 11, 7]])
        if box == 'absent':
            del annotation['bbox']
    data.write('train', content)
    coco = read_annotations(str(data.path('train')))
    assert coco.boxes.tolist() == [[1.0, 2.0, 10.0, 5.0]] * 9
    assert coco.derived == {'bbox': 4}
    # mmdet's own class reads the file itself.
    assert_has(only(data.check('train')), "4 entries of '", "lack 'bbox', which mmdet needs")
    data.train.type = 'ClassNameCocoDataset'
    assert_has(only(data.check('train'), 'info'), "which comes from their 'segmentation'")
    dataset = DATASETS.build(data.train)
    assert len(dataset.get_data_info(0)['instances']) == 3


@pytest.mark.parametrize(('size', 'fits'), [([30, 40], True), ([15, 20], False), ([40, 30], False)])
def test_masks_that_boxes_come_from_have_the_size_of_the_image(data, size, fits):
    content = coco_content()
    area = size[0] * size[1]
    mask = dict(size=size, counts=[0, area // 2, area - area // 2])
    content['annotations'][2].update(bbox=None, segmentation=mask)
    data.write('train', content)
    if fits:
        assert read_annotations(str(data.path('train'))).boxes[2].tolist() == [0, 0, 20, 30]
    else:
        with pytest.raises(InputError, match='annotation 3 has no box.*image has 40 x 30; export'):
            read_annotations(str(data.path('train')))


def test_a_url_that_is_none_names_no_file(data):
    content = coco_content()
    content['images'][1].update(file_name='', coco_url='http://[x/0.jpg')
    data.write('train', content)
    assert_has(only(data.check('train')), 'file_name', 'images[1]')


def test_file_names_come_from_the_url_where_they_are_missing(data):
    content = coco_content()
    for image in content['images']:
        image['coco_url'] = 'http://images.cocodataset.org/train/' + image.pop('file_name')
    content['images'][0]['file_name'] = ''
    data.write('train', content)
    data.train.update(type='ClassNameCocoDataset', data_prefix=dict(img=''))
    assert_has(only(data.check('train'), 'info'), "3 entries of '", "from their 'coco_url'")
    assert read_annotations(str(data.path('train'))).file_names[0] == 'train/0.jpg'


@pytest.mark.parametrize(
    ('key', 'section'), [('image_id', 'images'), ('category_id', 'categories')]
)
@pytest.mark.parametrize('text_in_annotations', [True, False])
def test_ids_as_text_and_as_numbers(data, key, section, text_in_annotations):
    content = coco_content()
    changed = content['annotations'] if text_in_annotations else content[section]
    for entry in changed:
        name = key if text_in_annotations else 'id'
        entry[name] = str(entry[name])
    data.write('train', content)
    first = content['annotations'][0][key]
    assert_has(
        only(data.check('train')),
        f'9 annotations of {str(data.path("train"))!r} have the {key} {first!r} as ',
        f"but '{section}' has the id ",
        'write both as numbers, or both as text',
    )


def test_boxes_are_counted_as_mmdet_keeps_them(tmp_path):
    generator = random.Random(0)
    content = coco_content(num_images=40)
    for image in content['images']:
        image['width'] = generator.choice([20, 32, 40])
    for annotation in content['annotations'] * 2:
        kind = generator.choice(['bbox', 'bbox', 'area', 'iscrowd', 'ignore', 'category_id'])
        annotation[kind] = dict(
            bbox=[
                generator.choice([-8, -0.5, 0, 5, 39.5, 40]),
                generator.choice([-8, 0, 29.9, 30]),
                generator.choice([0, 0.5, 1, 8]),
                generator.choice([0.99, 1, 8]),
            ],
            area=generator.choice([-1, 0, 0.5]),
            iscrowd=generator.choice([0, 1]),
            ignore=generator.choice([0, 1]),
            category_id=generator.choice([7, 9, 55]),
        )[kind]
    (tmp_path / 'train.json').write_text(json.dumps(content))
    classes = ('cat', 'red fox')
    dataset = CocoDataset(
        ann_file=str(tmp_path / 'train.json'),
        data_prefix=dict(img=''),
        metainfo=dict(classes=classes),
        filter_cfg=dict(min_size=25),
    )
    kept = [
        instance['ignore_flag']
        for index in range(len(dataset))
        for instance in dataset.get_data_info(index)['instances']
    ]
    columns = columns_of_entries(
        '', content['images'], content['categories'], content['annotations']
    )
    counts = count_boxes(columns, classes, min_size=25)
    assert counts.usable == kept.count(0) > 5
    assert sum(
        (
            counts.usable,
            counts.crowd,
            counts.filtered,
            counts.dropped.total(),
            counts.other_category.total(),
        )
    ) == len(content['annotations'])
