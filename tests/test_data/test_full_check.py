"""The check of annotation files together with all images."""

import shutil

import pytest
from mmengine import Config
from PIL import Image

from mmdet_dinov2.data.findings import findings_table
from mmdet_dinov2.data.full_check import check_dataset, finest_stride

from .helpers import Data, assert_has, coco_content, only
from .images import BROKEN, jpeg


@pytest.fixture
def data(tmp_path):
    """A sound dataset, whose images all differ."""
    data = Data(tmp_path)
    for number, split in enumerate(('train', 'val')):
        for index in range(3):
            (tmp_path / split / f'{index}.jpg').write_bytes(jpeg(seed=3 * number + index))
    for split in ('train', 'val', 'test'):
        data.cfg[f'{split}_dataloader'].dataset.type = 'ClassNameCocoDataset'
    return data


def problems(data, *splits):
    """Returns the findings other than facts."""
    found = check_dataset(data.cfg, splits or ('train', 'val', 'test'), workers=2).findings
    return [finding for finding in found if finding.severity != 'fact']


def test_sound_data_give_facts_only(data):
    seen = []
    report = check_dataset(data.cfg, workers=2, start=lambda total: lambda: seen.append(total))
    assert not report.failed and len(report.files) == 3
    assert {finding.severity for finding in report.findings} == {'fact'}
    first = report.findings[0].message
    assert_has(
        first, '3 images, 0 of them without boxes; 9 usable boxes and 0 crowd regions; up to 3'
    )
    assert 'cat 3, dog 3, red fox 3' in first
    assert seen == [6] * 6  # images that val and test share are opened once


@pytest.mark.parametrize('case', BROKEN)
def test_broken_images(data, case):
    (data.root / 'train' / '1.jpg').write_bytes(BROKEN[case][0])
    assert data.check('train') == []  # only the full check opens images
    assert_has(
        only(problems(data, 'train')), '1 of 3 images cannot be read', 'train/1.jpg: the',
        BROKEN[case][1],
    )  # fmt: skip


def test_sizes_that_contradict_the_file(data):
    (data.root / 'train' / '1.jpg').write_bytes(jpeg(41, 30))
    assert_has(
        only(problems(data, 'train')), '1 of 3 images do not have the size in the annotation file',
        "'1.jpg: 40 x 30, but is 41 x 30'",
    )  # fmt: skip


def test_rotations(data):
    (data.root / 'train' / '1.jpg').write_bytes(jpeg(40, 30, orientation=6))
    assert_has(
        only(problems(data, 'train'), 'info'), '1 of 3 images have an EXIF rotation',
        "'1.jpg (6)'", 'loaded without it',
    )  # fmt: skip
    data.train.type = 'CocoDataset'
    assert_has(only(problems(data, 'train')), 'but mmdet applies', 'ClassNameCocoDataset')
    # Annotated as it is shown.
    (data.root / 'train' / '1.jpg').write_bytes(jpeg(30, 40, orientation=6))
    assert problems(data, 'train') == []
    (data.root / 'train' / '1.jpg').write_bytes(jpeg(40, 30, orientation=3))
    assert_has(only(problems(data, 'train'), 'warning'), "'1.jpg (3)'", 'does not show whether')


def test_images_in_training_and_test(data):
    shutil.copy(data.root / 'train' / '1.jpg', data.root / 'val' / '2.jpg')
    found = problems(data)
    assert [finding.split for finding in found] == ['val', 'test']
    assert_has(
        found[0].message, '1 of 3 images are also in the training data',
        f'{data.root}/val/2.jpg = {data.root}/train/1.jpg',
    )  # fmt: skip
    # The same files.
    data.cfg.val_dataloader.dataset.ann_file = 'train.json'
    data.cfg.val_dataloader.dataset.data_prefix.img = 'train/'
    data.cfg.val_evaluator.ann_file = str(data.path('train'))
    assert (
        '3 of 3 images are also in the training data' in problems(data, 'train', 'val')[0].message
    )


def test_images_of_the_training_that_are_resized_or_mirrored(data):
    train = Image.open(data.root / 'train' / '1.jpg')
    train.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(data.root / 'val' / '0.jpg', quality=90)
    shutil.copy(data.root / 'train' / '2.jpg', data.root / 'val' / '1.jpg')
    copy, near, *_ = problems(data, 'train', 'val')
    assert '1 of 3 images are also in the training data' in copy.message
    assert (near.severity, near.split) == ('warning', 'val')
    assert_has(
        near.message, '1 of 3 images look like images of the training data',
        f'{data.root}/val/0.jpg = {data.root}/train/1.jpg',
    )  # fmt: skip
    assert len(problems(data, 'val')) == 0


def test_images_that_exist_twice(data):
    shutil.copy(data.root / 'train' / '1.jpg', data.root / 'train' / '2.jpg')
    assert_has(
        only(problems(data, 'train'), 'warning'), '1 images exist more than once', '1.jpg = 2.'
    )
    content = coco_content()
    content['images'][2]['file_name'] = '1.jpg'
    data.write('train', content)
    assert_has(only(problems(data, 'train'), 'warning'), "lists 1 image files more than once ('1.")


def test_more_boxes_than_queries(data):
    data.cfg.model.num_queries = 2
    data.cfg.model.test_cfg = dict(max_per_img=1)
    train, val, detections = problems(data, 'train', 'val')
    assert_has(train.message, '3 images of', '`model.num_queries`=2', "up to 3 ('0.jpg')")
    assert val.split == detections.split == 'val'
    assert '`model.test_cfg.max_per_img`=1' in detections.message
    assert data.check('train')[0] == train  # reported before every training


def test_boxes_against_the_finest_stride(data):
    data.cfg.model.backbone = dict(patch_size=16)
    data.cfg.model.neck = dict(scale_factors=(2.0, 1.0))
    assert finest_stride(data.cfg) == 8
    # Boxes of 10 x 5 pixels, enlarged by 90 / 40.
    data.train.pipeline = [[dict(type='RandomResize', scale=(80, 90))]]
    fact = check_dataset(data.cfg, ('train',)).findings[-1]
    assert_has(fact.message, 'at a scale of 90 x 80', 'stride of 8 pixels: 1-2: 100%')


def test_small_boxes(data):
    data.cfg.model.backbone = dict(patch_size=16)
    data.cfg.model.neck = dict(scale_factors=(2.0, 1.0))
    message = only(problems(data, 'train'), 'warning')
    assert_has(
        message, '100% of the boxes are smaller than the finest stride', 'the size of the files'
    )
    assert finest_stride(Config(dict(model=dict(backbone=dict(depth=50))))) is None


def test_classes_without_boxes(data):
    content = coco_content()
    content['annotations'] = [a for a in content['annotations'] if a['category_id'] != 9]
    data.write('train', content)
    assert_has(only(problems(data, 'train'), 'warning'), '1 of 3 classes have no boxes', "('dog')")


def test_normalised_boxes_and_corners(data):
    content = coco_content()
    for annotation in content['annotations']:
        annotation['bbox'] = [0.1, 0.2, 0.5, 0.3]
    data.write('train', content)
    assert_has(only(data.check('train')), 'lie between 0 and 1', 'multiply')
    for annotation in content['annotations']:
        annotation['bbox'] = [20, 15, 38, 29]
    data.write('train', content)
    assert_has(only(data.check('train')), 'look like x1, y1, x2, y2: ')
    content['annotations'][0]['bbox'] = [20, 15, 10, 5]
    data.write('train', content)
    assert data.check('train') == []
    # Some of them only; and a whole pixel, which is a box.
    content['annotations'][1]['bbox'] = [0.1, 0.2, 0.5, 0.3]
    content['annotations'][2]['bbox'] = [0, 0, 1, 1]
    data.write('train', content)
    (dropped,) = data.check('train')
    assert '1 between 0 and 1, as fractions of the image (id ' in dropped.message


def test_the_published_blood_cells(shared):
    root = shared / 'data/bccd'

    def dataset(split):
        return dict(
            type='ClassNameCocoDataset',
            data_root=str(root),
            ann_file=f'annotations/{split}.json',
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=('RBC', 'WBC', 'Platelets')),
            test_mode=split != 'train',
        )

    cfg = Config(
        {f'{split}_dataloader': dict(dataset=dataset(split)) for split in ('train', 'val', 'test')}
    )
    found = [f for f in check_dataset(cfg, workers=2).findings if f.severity != 'fact']
    train, val, near = found
    # Both show the same cells.
    assert_has(near.message, '1 of 87 images look like', 'BloodImage_00037.jpg = ')
    assert 'BloodImage_00038.jpg' in near.message
    assert_has(train.message, '1 of 2805', 'zero or negative size', "on 'BloodImage_00343.jpg'")
    assert_has(val.message, '1 of 1138', 'zero or negative size', "on 'BloodImage_00338.jpg'")
    assert (train.severity, train.split, val.split) == ('warning', 'train', 'val')


def test_the_table_has_errors_first(data, capsys):
    from rich.console import Console

    shutil.copy(data.root / 'train' / '1.jpg', data.root / 'val' / '2.jpg')
    (data.root / 'train' / '2.jpg').write_bytes(b'')
    Console(width=100).print(findings_table(check_dataset(data.cfg).findings))
    text = capsys.readouterr().out
    assert text.index('error') < text.index('warning') < text.index('fact')
    # The warning and the fact that val and test share are one row each.
    assert text.count('val, test') == 2


def test_unreadable_annotations_do_not_stop_the_check(data):
    data.path('val').write_text('{')
    (data.root / 'train' / '1.jpg').write_bytes(b'')
    *unreadable, broken = problems(data)
    assert [(finding.severity, finding.split) for finding in unreadable] == [
        ('error', 'val'),
        ('error', 'test'),
    ]
    assert_has(only([broken]), '1 of 3 images cannot be read')
