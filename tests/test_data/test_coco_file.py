import functools
import json
import random

import pytest
from mmdet.datasets import CocoDataset

from mmdet_dinov2.data.box_counts import count_boxes
from mmdet_dinov2.data.coco_file import CocoFile

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
    coco = CocoFile('', content['images'], content['categories'], content['annotations'])
    counts = count_boxes(coco, classes, min_size=25)
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
