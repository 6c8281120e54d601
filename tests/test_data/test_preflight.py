import copy
import functools
import json
import os
import random
from pathlib import Path

import pytest
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine import Config, ConfigDict

from mmdet_dinov2.data import (
    Finding,
    check_config,
    fill_evaluator_ann_file,
    raise_on_errors,
)
from mmdet_dinov2.data.coco_file import CocoFile, count_boxes
from mmdet_dinov2.errors import InputError

NAMES = ('cat', 'dog', 'red fox')


def coco_content(num_images=3, names=NAMES):
    """A COCO dict with one box of every category on every image of 40 x 30 pixels."""
    images = [dict(id=10 + i, file_name=f'{i}.jpg', width=40, height=30) for i in range(num_images)]
    annotations = [
        dict(
            image_id=image['id'],
            category_id=7 + 2 * label,
            bbox=[1.0, 2.0, 10.0, 5.0],
            area=50.0,
            iscrowd=0,
        )
        for image in images
        for label in range(len(names))
    ]
    for index, annotation in enumerate(annotations):
        annotation['id'] = 1 + index
    categories = [dict(id=7 + 2 * label, name=name) for label, name in enumerate(names)]
    return dict(images=images, annotations=annotations, categories=categories)


class Data:
    """A data set on disk in ``root``, and a config that fits it."""

    def __init__(self, root):
        self.root = root
        for split in ('train', 'val'):
            self.write(split, coco_content())
            (root / split).mkdir()
            for index in range(3):
                (root / split / f'{index}.jpg').touch()
        val = dict(dataset=self.dataset('val', test_mode=True))
        evaluator = dict(type='CocoMetric', ann_file=str(self.path('val')))
        self.cfg = Config(
            dict(
                model=dict(bbox_head=dict(num_classes=3)),
                train_dataloader=dict(dataset=self.dataset('train')),
                val_dataloader=val,
                test_dataloader=copy.deepcopy(val),
                val_evaluator=evaluator,
                test_evaluator=copy.deepcopy(evaluator),
            )
        )

    @property
    def train(self):
        return self.cfg.train_dataloader.dataset

    def dataset(self, split, **kwargs):
        return dict(
            type='CocoDataset',
            data_root=str(self.root),
            ann_file=f'{split}.json',
            data_prefix=dict(img=f'{split}/'),
            metainfo=dict(classes=NAMES),
            **kwargs,
        )

    def path(self, split):
        return self.root / f'{split}.json'

    def write(self, split, content):
        self.path(split).write_text(json.dumps(content))

    def check(self, *splits):
        return check_config(self.cfg, splits or ('train', 'val', 'test'))


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path)


def only(findings, severity='error', split='train'):
    """Return the message of the only finding, which must have this severity and split."""
    assert [(finding.severity, finding.split) for finding in findings] == [(severity, split)], (
        findings
    )
    message = findings[0].message
    assert message.endswith('.') and '\n' not in message
    return message


def assert_has(message, *facts):
    for fact in facts:
        assert str(fact) in message


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
    assert [finding.split for finding in data.check('test', 'train')] == ['test', 'train']
    data.cfg.pop('train_dataloader')
    data.cfg.val_dataloader = None
    assert data.check('train', 'val') == []


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
        (delete('annotations', 2, 'area'), ["lacks 'area' in annotations[2]"]),
        (lambda content: content.update(images={}), ["a dict as 'images'"]),
        (
            lambda content: content['annotations'][1].update(bbox=[1, 2, 3]),
            ['id 2', '[1, 2, 3]', 'four finite numbers'],
        ),
        (
            lambda content: content['annotations'][1].update(bbox=[1, 2, 3, float('nan')]),
            ['id 2', '[1, 2, 3, nan]'],
        ),
        (lambda content: content['annotations'][1].update(area=None), ['id 2', 'area None']),
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
    data.path('train').write_text('[]')
    assert_has(only(data.check('train')), 'holds a list')


def test_unknown_classes(data):
    data.train.metainfo.classes = ('cat', 'Red_Fox', 'zebra')
    found = data.check('train')
    errors = [finding for finding in found if finding.severity == 'error']
    assert_has(
        only(errors),
        '`train_dataloader.dataset.metainfo.classes` lists',
        "'Red_Fox', 'zebra'",
        f"'{data.path('train')}'",
        "which has 'cat', 'dog', 'red fox'",
        "did you mean 'red fox' for 'Red_Fox'?",
    )
    assert_has(only(found[1:], 'warning'), 'ignores 6 of 9 boxes', "'dog', 'red fox'")


def test_classes_of_the_dataset_class(data):
    del data.train['metainfo']
    data.cfg.model.bbox_head.num_classes = 80
    errors = [finding for finding in data.check('train') if finding.severity == 'error']
    assert_has(
        only(errors),
        '`CocoDataset.METAINFO` (as `train_dataloader.dataset.metainfo.classes`',
        "'person', 'bicycle'",
        'and 68 more',
        'set `train_dataloader.dataset.metainfo.classes`',
    )


@pytest.mark.parametrize(
    ('metainfo', 'fact'),
    [
        (dict(CLASSES=NAMES), "rename it to 'classes'"),
        (dict(classes='cat'), "is the string 'cat'"),
        (dict(classes=()), 'names no class'),
        (dict(classes=('cat', 'dog', 'cat')), "lists 'cat' more than once"),
        (['cat'], 'must be a dict'),
    ],
)
def test_unusable_metainfo(data, metainfo, fact):
    data.train.metainfo = metainfo
    assert_has(only(data.check('train')), '`train_dataloader.dataset.metainfo', fact)


def test_classes_from_a_text_file(data):
    (data.root / 'classes.txt').write_text('cat\ndog\nred fox\n')
    data.train.metainfo.classes = str(data.root / 'classes.txt')
    assert data.check('train') == []


def test_ignored_categories(data):
    data.train.metainfo.classes = ('cat', 'red fox')
    data.cfg.model.bbox_head.num_classes = 2
    assert_has(
        only(data.check('train'), 'warning'),
        "ignores 3 of 9 boxes of '",
        data.path('train'),
        "('dog')",
        '`train_dataloader.dataset`',
    )


def test_categories_of_one_name(data):
    content = coco_content(names=(*NAMES, 'dog'))
    data.write('train', content)
    assert_has(only(data.check('train')), "more than one category named 'dog'", data.path('train'))


def test_mmdet_numbers_labels_in_the_order_of_the_file(data):
    data.train.metainfo.classes = ('dog', 'red fox', 'cat')
    dataset = DATASETS.build(data.train)
    labels = [instance['bbox_label'] for instance in dataset.get_data_info(0)['instances']]
    shown = [dataset.metainfo['classes'][label] for label in labels]
    assert shown == ['dog', 'red fox', 'cat']
    assert shown != list(NAMES), 'the boxes are of these categories'


def test_class_order(data):
    for split in ('train', 'val', 'test'):
        data.cfg[f'{split}_dataloader'].dataset.metainfo.classes = ('cat', 'red fox', 'dog')
    found = data.check()
    assert [finding.split for finding in found] == ['train', 'val', 'test']
    assert_has(
        only(found[:1]),
        f"boxes of 'dog' in '{data.path('train')}' get label 1, which "
        "`train_dataloader.dataset.metainfo.classes` calls 'red fox'",
        "list the classes in the order of the file: ('cat', 'dog', 'red fox').",
    )


def test_files_of_different_order(data):
    content = coco_content()
    content['categories'].reverse()
    data.write('val', content)
    assert_has(
        only(data.check('train', 'val'), split='val'),
        f"boxes of 'red fox' in '{data.path('val')}' get label 0",
        "calls 'cat'",
        "sort the categories of this one as in the classes: ('cat', 'dog', 'red fox').",
    )
    labels = [
        DATASETS.build(data.cfg[f'{split}_dataloader'].dataset).get_data_info(0)['instances'][0][
            'bbox_label'
        ]
        for split in ('train', 'val')
    ]
    assert labels == [0, 2], 'the first box of both is a cat'


def test_number_of_classes_of_the_model(data):
    data.cfg.model.bbox_head.num_classes = 80
    assert_has(
        only(data.check()),
        '`model.bbox_head.num_classes` is 80',
        'gives 3 classes',
        'set `model.bbox_head.num_classes=3`',
    )


def test_classes_differ_between_splits(data):
    data.cfg.val_dataloader.dataset.metainfo.classes = ('cat', 'dog')
    errors = [finding for finding in data.check('train', 'val') if finding.severity == 'error']
    assert_has(
        only(errors, split='val'),
        '`val_dataloader.dataset.metainfo.classes` gives the classes '
        "'cat', 'dog', but `train_dataloader.dataset.metainfo.classes` gives 'cat', 'dog', 'red f",
    )


def test_missing_images(data):
    content = coco_content(num_images=7)
    content['images'][6]['file_name'] = 'sub/6.jpg'
    data.write('train', content)
    (data.root / 'train' / '1.jpg').unlink()
    assert_has(
        only(data.check('train')),
        f"5 of 7 images are missing in '{data.root}/train/'",
        "'1.jpg', '3.jpg', '4.jpg' and 2 more",
        f"data_root` (now '{data.root}')",
        "`train_dataloader.dataset.data_prefix.img` (now 'train/')",
    )
    for index in (1, 3, 4, 5):
        (data.root / 'train' / f'{index}.jpg').touch()
    (data.root / 'train' / 'sub').mkdir()
    assert_has(only(data.check('train')), '1 of 7 images are missing', "'sub/6.jpg'")
    (data.root / 'train' / 'sub' / '6.jpg').touch()
    assert data.check('train') == []


def test_missing_image_folder(data):
    data.train.data_prefix.img = 'images'
    assert_has(only(data.check('train')), f"folder '{data.root}/images' does not exist")
    data.train.data_prefix = dict(img_path='train')
    assert_has(only(data.check('train')), "`train_dataloader.dataset.data_prefix` lacks 'img'")


def unusable_content():
    content = coco_content()
    annotations = content['annotations']
    annotations[0]['bbox'] = [1, 2, 0.5, 9]
    annotations[1]['bbox'] = [1, 2, 9, 0]
    annotations[2]['bbox'] = [40, 2, 9, 9]
    annotations[3]['bbox'] = [-9, 2, 9, 9]
    annotations[4]['area'] = 0
    annotations[5]['ignore'] = 1
    annotations[6]['image_id'] = 99
    annotations[7]['iscrowd'] = 1
    annotations[8]['category_id'] = 1000
    return content


def test_no_usable_box(data):
    data.write('train', unusable_content())
    error, other, dropped = data.check('train')
    assert_has(
        only([error]),
        f"'{data.path('train')}' has no usable box",
        "'cat', 'dog', 'red fox'",
        '9 annotations',
        '2 with a side below 1 pixel',
        '2 outside the image',
        "1 with an 'area' of 0 or less",
        "1 marked 'ignore'",
        '1 of images that the file does not list',
        '1 of other categories',
        '1 of crowds',
    )
    assert_has(only([other], 'warning'), 'ignores 1 of 9', 'id 1000, not listed')
    assert_has(only([dropped], 'warning'), 'leaves out 7 of 9 boxes', '2 outside the image')


def test_images_below_the_minimum_size_are_not_trained_on(data):
    data.train.filter_cfg = dict(filter_empty_gt=True, min_size=30)
    assert data.check('train') == []
    data.train.filter_cfg.min_size = 31
    assert_has(only(data.check('train')), 'no usable box', '9 on images below filter_cfg.min_size')
    with pytest.raises(ValueError, match='need at least one array to concatenate'):
        DATASETS.build(data.train)


def test_all_images_are_tested(data):
    data.cfg.val_dataloader.dataset.filter_cfg = dict(min_size=1000)
    assert data.check('val') == []
    assert len(DATASETS.build(data.cfg.val_dataloader.dataset)) == 3


def test_validation_without_boxes_is_a_warning(data):
    content = coco_content()
    content['annotations'] = []
    data.write('val', content)
    assert_has(only(data.check('val'), 'warning', 'val'), 'no usable box', 'its 0 annotations')


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


def test_missing_iscrowd_matters_for_evaluation(data):
    content = coco_content()
    del content['annotations'][3]['iscrowd']
    data.write('train', content)
    data.write('val', content)
    assert_has(
        only(data.check('train', 'val'), split='val'),
        data.path('val'),
        "lacks 'iscrowd' in 1",
        'first id 4',
    )


def test_test_split_without_annotations(data):
    content = coco_content()
    del content['annotations']
    data.write('val', content)
    assert_has(only(data.check('test'), split='test'), "no 'annotations'", 'format_only=True')
    data.cfg.test_evaluator.format_only = True
    assert data.check('test') == []


def test_evaluator_of_another_file(data):
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


def test_datasets_of_another_format_are_passed_over(data):
    data.train.type = 'LVISV1Dataset'
    assert_has(only(data.check('train'), 'info'), '`train_dataloader.dataset` is a LVISV1Dataset')
    data.train.type = 'VOCDataset'
    assert_has(only(data.check('train'), 'info'), 'VOCDataset')
    data.train.type = CocoDataset
    assert data.check('train') == []
    data.train.type = 'CocoDatsaet'
    assert_has(only(data.check('train')), "`train_dataloader.dataset.type` is 'CocoDatsaet'")


def test_remote_paths_are_passed_over(data):
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
    assert_has(only(check_config(cfg)), f"'{root}' was made with", 'seed=0', 'seed=1')
    cfg.train_dataloader.dataset.generate = dict(sede=1)
    assert_has(only(check_config(cfg)), "unknown keys ['sede']")


def test_files_and_folders_are_read_once(data, monkeypatch):
    parsed, listed = [], []
    load, scandir = json.load, os.scandir
    monkeypatch.setattr(json, 'load', lambda file: parsed.append(file.name) or load(file))
    monkeypatch.setattr(os, 'scandir', lambda path: listed.append(path) or scandir(path))
    assert data.check() == []
    assert [Path(path).name for path in parsed] == ['train.json', 'val.json']
    assert [Path(path).name for path in listed] == ['train', 'val']


def test_raise_on_errors_lists_errors_first():
    findings = [
        Finding('warning', 'train', 'Few boxes.'),
        Finding('info', 'val', 'Remote.'),
        Finding('error', 'val', 'No file.'),
        Finding('error', 'train', 'No class.'),
    ]
    with pytest.raises(InputError) as error:
        raise_on_errors(findings)
    assert str(error.value).splitlines() == [
        'The data set check found 2 errors:',
        '  error [val]: No file.',
        '  error [train]: No class.',
        '  warning [train]: Few boxes.',
    ]
    raise_on_errors(findings[:2])


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
