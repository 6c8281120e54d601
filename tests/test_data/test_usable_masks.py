"""Which segmentations are masks; run lengths against pycocotools."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmdet_dinov2.data.usable_masks import (
    BROKEN,
    FAR_OUTSIDE,
    FEW_POINTS,
    MISSING,
    NO_MASK,
    OTHER_SIZE,
    _decode_runs,
    loadable_mask,
    usable_mask,
)

TRIANGLE = [1, 2, 11, 2, 11, 7.5]


def random_mask(seed):
    rng = np.random.default_rng(seed)
    mask = rng.uniform(size=rng.integers(1, 90, 2)) < rng.choice([0, 0.01, 0.5, 1])
    if seed % 2:  # long runs, whose differences take several characters
        mask[: mask.shape[0] // 3] = True
    return mask


def encode(mask):
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return dict(encoded, counts=encoded['counts'].decode())


def test_runs_are_those_of_pycocotools():
    for seed in range(60):
        mask = random_mask(seed)
        runs = _decode_runs(encode(mask)['counts'])
        flat = mask.flatten(order='F')
        assert np.repeat(np.arange(len(runs)) % 2, runs).tolist() == flat.astype(int).tolist()
    large = np.zeros((3000, 4000), dtype=bool)
    large[5:2900, 7:3000] = True
    runs = _decode_runs(encode(large)['counts'])
    assert runs.sum() == large.size and runs[1::2].sum() == large.sum()


@pytest.mark.parametrize(
    ('segmentation', 'mask'),
    [
        ([TRIANGLE], [TRIANGLE]),
        (TRIANGLE, [TRIANGLE]),
        ([[1, 2], [11, 2], [11, 7.5]], [TRIANGLE]),
        ([TRIANGLE, [1, 2], TRIANGLE], [TRIANGLE, TRIANGLE]),
        ([TRIANGLE, [1, 2, 3, 4, 5, 6, 7]], [TRIANGLE]),
        (dict(size=[30, 40], counts=[32, 5, 1163]), dict(size=[30, 40], counts=[32, 5, 1163])),
        (encode(np.ones((30, 40))), encode(np.ones((30, 40)))),
    ],
)
def test_masks(segmentation, mask):
    assert usable_mask(segmentation, 40, 30) == (mask, '')
    assert loadable_mask(segmentation, 40, 30) == mask


@pytest.mark.parametrize(
    ('segmentation', 'problem'),
    [
        (None, MISSING),
        ([], MISSING),
        ({}, MISSING),
        ([[1, 2, 3, 4]], FEW_POINTS),
        ([[]], FEW_POINTS),
        ([[1, 2, 3, 4, 5, 6, 7]], BROKEN),
        ([[1, 2, 3, 4, 5, None]], BROKEN),
        ([1, 2, 3, 4, 5, '6'], BROKEN),
        ('text', BROKEN),
        (7, BROKEN),
        ([[0, 0, 90, 0, 5, 5]], FAR_OUTSIDE),
        ([[0, 0, 5, -31, 5, 5]], FAR_OUTSIDE),
        ([[0, 0, float('inf'), 0, 5, 5]], FAR_OUTSIDE),
        ([[0, 0, 10**400, 0, 5, 5]], FAR_OUTSIDE),
        ([[0, 0, float('nan'), 0, 5, 5]], BROKEN),
        (dict(size=[40, 30], counts=[32, 5, 1163]), OTHER_SIZE),
        (encode(np.ones((40, 30))), OTHER_SIZE),
        (dict(size=[30, 40], counts=[32, 5, 1164]), BROKEN),
        (dict(size=[30, 40], counts=[32, -5, 1173]), BROKEN),
        (dict(size=[30, 40], counts=[32, 5.0, 1163]), BROKEN),
        (dict(size=[30, 40], counts=encode(np.ones((30, 41)))['counts']), BROKEN),
        (dict(size=[30, 40], counts='PPP'), BROKEN),
        (dict(size=[30, 40], counts=None), BROKEN),
        (dict(size='30 40', counts=[1200]), BROKEN),
        (dict(counts=[1200]), BROKEN),
    ],
)
def test_what_is_no_mask(segmentation, problem):
    assert usable_mask(segmentation, 40, 30) == (None, problem)
    assert loadable_mask(segmentation, 40, 30) == [list(part) for part in NO_MASK]


def test_no_mask_has_no_pixel():
    polygons = [list(part) for part in NO_MASK]
    assert coco_mask.decode(coco_mask.frPyObjects(polygons, 30, 40)).sum() == 0
