"""Samples mixed with others: the same by seed, MixUp and CutMix against slow versions."""

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmdet.registry import DATASETS
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.dataset import RepeatDataset

from mmdet_dinov2.data import BoxCutMix, BoxMixUp, MixSamples
from mmdet_dinov2.data.other_samples import OTHER_SAMPLES, OtherSamples
from mmdet_dinov2.data.seeded import SeededDataset, SeededIndex, seed_everything
from mmdet_dinov2.data.shapes import generate_shapes
from mmdet_dinov2.errors import InputError

SINGLE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
]
MIXES = {
    'mixup': dict(type='BoxMixUp', alpha=1.5),
    'cutmix': dict(type='BoxCutMix', alpha=1.0),
    'mosaic': dict(type='Mosaic', img_scale=(60, 60)),
    "mmdet's mixup": dict(type='MixUp', img_scale=(60, 60)),
}


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'shapes'
    generate_shapes(str(root), num_train=6, num_val=1, seed=0)
    return root


def build(shapes, pipeline, **kwargs):
    return DATASETS.build(
        dict(
            type='ClassNameCocoDataset',
            data_root=f'{shapes}/',
            ann_file='annotations/train.json',
            data_prefix=dict(img='train/'),
            filter_cfg=dict(filter_empty_gt=False),
            metainfo=dict(classes=('circle', 'rectangle', 'triangle', 'star', 'cross')),
            pipeline=pipeline,
            **kwargs,
        )
    )


def mixing(mix):
    return [
        *SINGLE,
        dict(type='MixSamples', transform=mix, pre_transform=SINGLE),
        dict(type='PackWeightedDetInputs'),
    ]


@pytest.mark.parametrize('name', MIXES)
def test_the_seed_of_a_sample_decides_what_it_is_mixed_with(shapes, name):
    dataset = SeededDataset(build(shapes, mixing(MIXES[name])))
    items = [SeededIndex(index, 10 + index) for index in range(4)]
    first = [dataset[item] for item in items]
    other_process = pickle.loads(pickle.dumps(dataset))
    seed_everything(99)
    for item, expected in reversed(list(zip(items, first, strict=True))):
        again = other_process[item]
        assert torch.equal(again['inputs'], expected['inputs'])
        a, b = (sample['data_samples'].gt_instances for sample in (again, expected))
        assert torch.equal(a.bboxes.tensor, b.bboxes.tensor)
        assert torch.equal(a.labels, b.labels)
        assert OTHER_SAMPLES not in expected['data_samples'].metainfo
    assert not all(
        torch.equal(dataset[SeededIndex(0, 10)]['inputs'], dataset[SeededIndex(0, seed)]['inputs'])
        for seed in (11, 12)
    )


def sample(height, width, boxes, labels=None, seed=0):
    rng = np.random.default_rng(seed)
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return dict(
        img=rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        img_shape=(height, width),
        gt_bboxes=HorizontalBoxes(torch.from_numpy(boxes)),
        gt_bboxes_labels=np.array(labels if labels is not None else range(len(boxes))),
        gt_ignore_flags=np.zeros(len(boxes), dtype=bool),
    )


def mixed(transform, first, second, seed):
    random.seed(seed)
    np.random.seed(seed)
    return transform({**first, 'mix_results': [{**second}]})


@pytest.mark.parametrize('seed', range(3))
def test_mixup_averages_pixels_and_weighs_boxes(seed):
    first = sample(40, 31, [(1, 2, 30, 20), (5, 5, 9, 12)])
    second = sample(25, 20, [(0, 0, 20, 25)], labels=[7], seed=1)
    result = mixed(BoxMixUp(alpha=1.5), first, second, seed)
    share = result['gt_weights'][0]
    assert 0 < share < 1
    np.testing.assert_allclose(result['gt_weights'], [share, share, 1 - share], rtol=1e-6)
    assert result['gt_bboxes_labels'].tolist() == [0, 1, 7]
    boxes = result['gt_bboxes'].tensor
    assert torch.equal(boxes[:2], first['gt_bboxes'].tensor)
    left, top, right, bottom = boxes[2].int().tolist()
    assert (right - left, bottom - top) == (20, 25)
    for row in range(40):
        for col in range(31):
            pixel = first['img'][row, col].astype(float)
            if top <= row < bottom and left <= col < right:
                pixel = share * pixel + (1 - share) * second['img'][row - top, col - left]
            assert np.abs(result['img'][row, col] - pixel).max() <= 0.51
    assert first['img'].std() > 0 and result['img'].shape == (40, 31, 3)


def test_a_larger_image_is_shrunk_into_the_smaller_one():
    first, second = sample(40, 30, []), sample(100, 120, [(0, 0, 120, 100)], labels=[3], seed=1)
    result = mixed(BoxMixUp(), first, second, 0)
    box = result['gt_bboxes'].tensor[0]
    assert (box[2:] - box[:2]).tolist() == [30, 25]
    assert (box >= 0).all() and (box <= torch.tensor([30, 40, 30, 40])).all()
    assert (second['img'] == sample(100, 120, [], seed=1)['img']).all()


@pytest.mark.parametrize('seed', range(8))
def test_cutmix_replaces_a_rectangle_and_keeps_visible_boxes(seed):
    boxes = [(0, 0, 12, 12), (10, 8, 30, 28), (20, 30, 34, 44), (3, 20, 9, 40)]
    first = sample(46, 35, boxes)
    second = sample(37, 50, boxes, labels=[10, 11, 12, 13], seed=1)
    result = mixed(BoxCutMix(alpha=1.0, min_visible=0.6), first, second, seed)
    changed = (result['img'] != first['img']).any(-1)
    rows, cols = (changed.any(axis).nonzero()[0] for axis in (1, 0))
    top, bottom, left, right = rows[0], rows[-1] + 1, cols[0], cols[-1] + 1
    # Where the rectangle comes from in the other image.
    patch = result['img'][top:bottom, left:right]
    (source,) = [
        (y, x)
        for y in range(37 - len(patch) + 1)
        for x in range(50 - patch.shape[1] + 1)
        if (second['img'][y : y + len(patch), x : x + patch.shape[1]] == patch).all()
    ]
    expected = []
    for label, (x1, y1, x2, y2) in enumerate(boxes):
        hidden = sum(
            top <= y < bottom and left <= x < right for y in range(y1, y2) for x in range(x1, x2)
        )
        if 1 - hidden / ((x2 - x1) * (y2 - y1)) >= 0.6:
            expected.append((label, (x1, y1, x2, y2)))
    down, along = top - source[0], left - source[1]
    for label, (x1, y1, x2, y2) in enumerate(boxes):
        moved = x1 + along, y1 + down, x2 + along, y2 + down
        cut = (
            max(moved[0], left), max(moved[1], top), min(moved[2], right), min(moved[3], bottom),
        )  # fmt: skip
        area = max(cut[2] - cut[0], 0) * max(cut[3] - cut[1], 0)
        if area and area / ((x2 - x1) * (y2 - y1)) >= 0.6:
            expected.append((10 + label, cut))
    found = zip(
        result['gt_bboxes_labels'].tolist(), result['gt_bboxes'].tensor.tolist(), strict=True
    )
    assert [(label, tuple(box)) for label, box in found] == expected
    assert len(result['gt_ignore_flags']) == len(expected) and 'gt_weights' not in result


def test_images_without_boxes_mix():
    for transform in (BoxMixUp(), BoxCutMix()):
        for first, second in (([], []), ([(0, 0, 9, 9)], []), ([], [(0, 0, 9, 9)])):
            result = mixed(transform, sample(30, 20, first), sample(20, 30, second, seed=1), 3)
            assert result['gt_bboxes'].tensor.shape[1] == 4


def test_weights_reach_the_packed_sample(shapes):
    dataset = SeededDataset(build(shapes, mixing(MIXES['mixup'])))
    instances = dataset[SeededIndex(0, 3)]['data_samples'].gt_instances
    assert len(instances.weights) == len(instances.bboxes)
    assert 1 < len(instances.weights.unique()) <= 2


def test_hooks_switch_the_pipeline_of_repeated_datasets(shapes):
    dataset = build(shapes, mixing(MIXES['mixup']))
    wrapper = SeededDataset(RepeatDataset(dataset, times=2))
    wrapper.pipeline = Compose(SINGLE)
    assert wrapper.pipeline is dataset.pipeline and len(dataset.pipeline.transforms) == 3


def test_what_cannot_be_mixed_is_named(shapes):
    with pytest.raises(InputError, match='needs a transform that mixes samples, .* RandomFlip'):
        MixSamples(dict(type='RandomFlip', prob=0.5), SINGLE)
    with pytest.raises(InputError, match='needs samples of a ClassNameCocoDataset'):
        build(shapes, mixing(MIXES['mixup']), test_mode=True)[0]
    masked = {**sample(30, 20, []), 'gt_masks': []}
    with pytest.raises(InputError, match='BoxCutMix does not mix masks'):
        mixed(BoxCutMix(), masked, sample(30, 20, []), 0)
    with pytest.raises(InputError, match='alpha of BoxMixUp must be above 0, but is 0'):
        BoxMixUp(alpha=0)
    with pytest.raises(InputError, match='min_visible of BoxCutMix must be 0 to 1, but is 2'):
        BoxCutMix(min_visible=2)


def test_copies_of_a_sample_share_the_other_samples(shapes):
    others = OtherSamples(build(shapes, SINGLE))
    assert copy.deepcopy({'x': [others]})['x'][0] is others
    assert others[2][OTHER_SAMPLES].dataset is others.dataset and len(others) == 6
