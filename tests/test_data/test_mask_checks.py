"""What the check says about masks."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmdet_dinov2.data import mask_counts

from .helpers import Data, assert_has, coco_content, only

BOX = [[1, 2, 11, 2, 11, 7, 1, 7]]
OUTLINE = [[1, 2, 11, 2, 9, 7, 3, 6]]


@pytest.fixture
def data(tmp_path):
    """A dataset whose boxes, (1, 2) to (11, 7), all have an outline, and a config that uses it."""
    data = Data(tmp_path)
    for split in ('train', 'val', 'test'):
        dataset = data.cfg[f'{split}_dataloader'].dataset
        dataset.type = 'ClassNameCocoDataset'
        dataset.pipeline = [dict(type='LoadAnnotations', with_mask=split == 'train')]
    for split in ('val', 'test'):
        data.cfg[f'{split}_evaluator'] = dict(type='ClassNameCocoMetric', metric=['bbox', 'segm'])
    data.cfg.model.mask_head = dict(type='FCNMaskHead')
    write(data, {}, 'train')
    write(data, {}, 'val')
    return data


def write(data, masks, split='train'):
    """Writes annotations: outlines but for the given masks by the position of the annotation."""
    content = coco_content()
    for index, annotation in enumerate(content['annotations']):
        annotation['segmentation'] = masks.get(index, OUTLINE)
        if annotation['segmentation'] is None:
            del annotation['segmentation']
    data.write(split, content)


def encode(mask):
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return dict(encoded, counts=encoded['counts'].decode())


def test_sound_masks(data):
    mask = np.zeros((30, 40))
    mask[2:7, 1:11] = 1
    write(data, {0: encode(mask), 1: OUTLINE[0], 2: [OUTLINE[0], [12, 3, 14, 3, 14, 5]]})
    assert data.check() == []


@pytest.mark.parametrize('block', [4096, 2])
def test_objects_without_a_usable_mask_are_counted(data, monkeypatch, block):
    monkeypatch.setattr(mask_counts, '_BLOCK', block)
    write(data, {0: None, 1: None, 2: [[1, 2, 3, 4]], 4: dict(size=[40, 30], counts=[1200])})
    message = only(data.check(), 'warning')
    assert_has(
        message,
        '4 of 9 objects',
        'have no mask that can be used (1 images have none)',
        "2 without a mask (id 1 on '0.jpg', id 2 on '0.jpg')",
        "1 with polygons of fewer than 3 points (id 3 on '0.jpg')",
        "1 with run lengths of a different size than the image (id 5 on '1.jpg')",
        'their boxes are learned, their masks are not',
    )


def test_polygons_far_outside_of_the_image_are_no_masks(data):
    write(data, {0: [[0, 0, 1e6, 0, 5, 5]], 1: [[0, 0, 5, 0, 5, -31]]})
    message = only(data.check('train'), 'warning')
    assert_has(message, '2 of 9 objects', '2 with polygons that reach further outside of the image')


def test_no_masks_at_all(data):
    write(data, dict.fromkeys(range(9)))
    write(data, dict.fromkeys(range(9), [[1, 2]]), 'val')
    assert_has(
        only(data.check('train')),
        'has no mask for any of its 9 objects, but this config uses masks: 9 without a mask',
        "add 'segmentation' to its annotations, or use a config without masks",
    )
    assert_has(only(data.check('val'), split='val'), '9 with polygons of fewer than 3 points')
    # Nothing is asked of masks that nobody uses.
    data.train.pipeline = [dict(type='LoadAnnotations')]
    data.cfg.model.pop('mask_head')
    data.cfg.val_evaluator.metric = data.cfg.test_evaluator.metric = 'bbox'
    assert data.check() == []


def test_masks_that_are_odd_are_named(data):
    far = [[20, 20, 30, 20, 30, 28]]
    wide = [[1, 2, 46, 2, 11, 7]]
    write(data, {0: far, 1: wide, 2: [OUTLINE[0], [1, 2]]})
    message = only(data.check('train'), 'warning')
    assert_has(
        message,
        # The polygon that reaches outside of the image is far from the box, too.
        '4 of 9 masks',
        "2 far from their box (id 1 on '0.jpg', id 2 on '0.jpg')",
        "1 with polygons that reach outside of the image (id 2 on '0.jpg')",
        '1 with several polygons, some of fewer than 3 points, which are left out (id 3 on',
    )


def test_run_lengths_are_compared_with_the_box(data):
    mask = np.zeros((30, 40))
    mask[20:25, 20:30] = 1
    write(data, {3: encode(mask), 4: encode(np.zeros((30, 40)))})
    assert_has(only(data.check('train'), 'warning'), '2 of 9 masks', '2 far from their box')


def test_holes_are_named(data):
    hole = [[1, 2, 11, 2, 11, 7, 1, 7], [4, 3, 6, 3, 6, 5]]
    beside = [[1, 2, 6, 2, 6, 7], [7, 3, 11, 3, 11, 7]]
    write(data, {0: hole, 1: beside})
    assert_has(
        only(data.check('train'), 'warning'),
        "1 masks of '",
        "have polygons inside of polygons (id 1 on '0.jpg'), which count as part of the object",
        'write masks with holes as run lengths',
    )


@pytest.mark.parametrize(('count', 'severity'), [(0, None), (3, 'info'), (9, 'warning')])
def test_rectangles_teach_nothing(data, count, severity):
    write(data, dict.fromkeys(range(count), BOX))
    findings = data.check('train')
    if severity is None:
        assert findings == []
    else:
        message = only(findings, severity)
        assert_has(message, f'{count} of 9 masks', 'four corners of a box', 'they teach nothing')


def test_what_transforms_do_with_objects_without_a_mask(data):
    write(data, {0: None, 1: encode(np.ones((30, 40)))})
    data.train.pipeline.append(dict(type='RandomCrop', recompute_bbox=True))
    assert any('recompute_bbox=False' in finding.message for finding in data.check('train'))
    data.train.pipeline = [dict(type='LoadAnnotations', with_mask=True, poly2mask=False)]
    assert any('remove poly2mask' in finding.message for finding in data.check('train'))
    data.train.type = 'CocoDataset'
    write(data, {0: None})
    message = only(data.check('train'))
    assert_has(message, 'mmdet fails on them', "to 'ClassNameCocoDataset'")


def test_a_mask_head_needs_masks(data):
    data.train.pipeline = [dict(type='LoadAnnotations')]
    message = only(data.check('train'))
    assert_has(message, 'the model has a mask_head, but', 'with_mask=True')
    data.train.pipeline = []  # nobody knows what is loaded
    assert data.check('train') == []


def test_a_metric_of_masks_needs_a_model_that_finds_them(data):
    data.cfg.model = dict(type='PaddingAwareDINO', bbox_head=dict(num_classes=3))
    messages = [finding.message for finding in data.check() if finding.severity == 'error']
    assert [message.split(' ')[0] for message in messages] == [
        '`val_evaluator`',
        '`test_evaluator`',
    ]
    assert_has(messages[0], "scores masks ('segm'), but the model finds boxes only")
    for split in ('val', 'test'):
        data.cfg[f'{split}_evaluator'].metric = 'bbox'
    assert not [finding for finding in data.check() if finding.severity == 'error']
