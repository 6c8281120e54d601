import pytest
from mmdet.registry import DATASETS

from .helpers import NAMES, assert_has, coco_content, only


def test_unknown_classes(data):
    data.train.metainfo.classes = ('cat', 'Red_Fox', 'zebra')
    found = data.check('train')
    errors = [finding for finding in found if finding.severity == 'error']
    assert_has(
        only(errors),
        '`train_dataloader.dataset.metainfo.classes` lists',
        "'Red_Fox', 'zebra'",
        f"'{data.path('train')}'",
        "its categories are 'cat', 'dog', 'red fox'",
        "did you mean 'red fox' for 'Red_Fox'?",
    )
    assert_has(only(found[1:], 'warning'), '6 of 9 boxes', 'ignored', "'dog', 'red fox'")


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
        (dict(classes=()), 'is empty; set it to the category names'),
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
        "3 of 9 boxes of '",
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
        "list the classes in the order of the file: ('cat', 'dog', 'red fox')",
    )


def test_files_of_different_order(data):
    content = coco_content()
    content['categories'].reverse()
    data.write('val', content)
    assert_has(
        only(data.check('train', 'val'), split='val'),
        f"boxes of 'red fox' in '{data.path('val')}' get label 0",
        "calls 'cat'",
        'sort the categories of this file, since the files of this config have different orders',
        "in the order of the classes: ('cat', 'dog', 'red fox')",
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


def test_names_that_differ_in_case_or_blanks_only(data):
    names = ('red fox', 'Red  Fox', 'dog')
    for split in ('train', 'val'):
        data.write(split, coco_content(names=names))
        data.cfg[f'{split}_dataloader'].dataset.metainfo.classes = names
    data.cfg.test_dataloader.dataset.metainfo.classes = names
    assert_has(only(data.check(), 'warning'), "('red fox', 'Red  Fox')", 'merge them')


def test_number_of_classes_of_two_stages(data):
    data.cfg.model = dict(
        roi_head=dict(bbox_head=dict(num_classes=3), mask_head=dict(num_classes=80))
    )
    assert_has(only(data.check()), 'set `model.roi_head.mask_head.num_classes=3`')
