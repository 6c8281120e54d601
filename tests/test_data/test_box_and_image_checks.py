import pytest
from mmdet.registry import DATASETS

from .helpers import assert_has, coco_content, only


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
    error, other, crowd, dropped = data.check('train')
    assert_has(
        only([error]),
        f"'{data.path('train')}' has no usable box",
        "'cat', 'dog', 'red fox'",
        '9 annotations',
        '1 with a side below 1 pixel',
        '1 of zero or negative size',
        '2 outside the image',
        "1 with an 'area' of 0 or less",
        "1 marked 'ignore'",
        '1 on images that the file does not list',
        '1 of other categories',
        '1 on crowd regions',
    )
    assert_has(
        only([other], 'warning'), '1 of 9 boxes', 'ignored', 'id 1000, which the file does not list'
    )
    assert_has(only([crowd], 'warning'), '1 of 9 annotations', 'crowd regions (iscrowd=1)')
    assert_has(
        only([dropped], 'warning'),
        '7 of 9 boxes',
        'left out',
        '2 outside the image (id 3 on',
        "id 2 on '0.jpg'",
    )


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


def test_scored_splits_need_boxes(data):
    content = coco_content()
    content['annotations'] = []
    data.write('val', content)
    assert_has(only(data.check('val'), split='val'), 'no usable box', 'its 0 annotations')
    assert_has(only(data.check('test'), split='test'), 'no usable box', 'its 0 annotations')
    data.cfg.test_evaluator.format_only = True
    assert_has(only(data.check('test'), 'warning', 'test'), 'no usable box')


def test_missing_iscrowd_matters_for_evaluation(data):
    content = coco_content()
    del content['annotations'][3]['iscrowd']
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


@pytest.mark.parametrize('split', ['train', 'val'])
def test_many_crowd_regions_are_named(data, split):
    content = coco_content(num_images=20)
    data.write(split, content)
    for index in range(3, 20):
        (data.root / split / f'{index}.jpg').touch()
    content['annotations'][0]['iscrowd'] = 1
    data.write(split, content)
    assert data.check(split) == []  # 1 of 60, as in COCO
    content['annotations'][1]['iscrowd'] = 1
    data.write(split, content)
    what = 'trained on' if split == 'train' else 'scored'
    assert_has(
        only(data.check(split), 'warning', split),
        '2 of 60 annotations', 'crowd regions (iscrowd=1)', f'are not {what}', 'set iscrowd to 0',
    )  # fmt: skip


def test_a_missing_image_of_another_ending_is_suggested(data):
    (data.root / 'train/1.jpg').rename(data.root / 'train/1.JPG')
    assert_has(only(data.check('train')), "of the first, '1.JPG' would fit (the case differs)")
    (data.root / 'train/1.JPG').rename(data.root / 'train/1.jpeg')
    assert_has(only(data.check('train')), "'1.jpeg' would fit (the ending differs)")
