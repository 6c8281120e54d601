"""Crops of an image as a sample, and masks of their patches."""

import numpy as np
import pytest
from mmcv.transforms import Compose

from mmdet_dinov2.data.crops import PackCrops, draw_blocks
from mmdet_dinov2.data.seeded import seed_everything
from mmdet_dinov2.errors import InputError

ASPECT = (0.3, 1 / 0.3)


@pytest.mark.parametrize('grid', [(16, 16), (6, 6), (3, 9), (1, 5)])
def test_blocks(grid):
    np.random.seed(0)
    total = grid[0] * grid[1]
    masks = {}
    for share in (0.1, 0.3, 0.6, 1.0):
        count = round(share * total)
        masks[share] = [draw_blocks(grid, count, 4, ASPECT) for _ in range(50)]
        sizes = [int(mask.sum()) for mask in masks[share]]
        assert max(sizes) <= count
        assert np.mean(sizes) >= (0.6 if min(grid) > 2 else 0.0) * count
    # Every place is reached, those at the borders too.
    assert np.any(masks[0.6], axis=0).all()


def test_blocks_are_blocks():
    np.random.seed(1)
    mask = draw_blocks((16, 16), 60, 4, ASPECT)
    neighbours = (mask[1:] == mask[:-1]).mean()
    assert neighbours > 0.8  # 0.64 for patches drawn one by one
    assert not draw_blocks((16, 16), 0, 4, ASPECT).any()


def test_a_sample():
    np.random.seed(0)
    crops = [
        np.random.randint(0, 256, (*size, 3), dtype=np.uint8)
        for size in ((28, 42), (28, 42), (15, 14))
    ]
    pack = PackCrops(patch_size=14, mask_prob=1.0, mask_ratio=(0.5, 0.5), min_block=1)
    results = pack(dict(img=crops, img_path='a.jpg', img_id=3, ori_shape=(50, 60)))
    sample = results['data_samples']
    assert sample.crop_shapes == ((28, 42), (28, 42), (15, 14))
    assert (sample.img_path, sample.img_id, sample.img_shape) == ('a.jpg', 3, (28, 42))
    assert [mask.shape for mask in sample.patch_masks] == [(2, 3)] * 2
    assert 0 < sample.patch_masks[0].sum() <= 3
    assert len(sample.gt_instances) == 0
    pixels = results['inputs'].split([28 * 42 * 3] * 2 + [15 * 14 * 3])
    for crop, part in zip(crops, pixels, strict=True):
        assert (part.view(3, *crop.shape[:2]).permute(1, 2, 0).numpy() == crop).all()


def test_the_share_of_masked_crops():
    crops = [np.zeros((224, 224, 3), np.uint8)] * 2
    seed_everything(0)
    pack = PackCrops(mask_prob=0.5, mask_ratio=(0.1, 0.5))
    masks = [m for _ in range(100) for m in pack(dict(img=crops))['data_samples'].patch_masks]
    shares = np.array([mask.mean() for mask in masks])
    assert 0.4 < (shares > 0).mean() < 0.6
    assert shares.max() <= 0.5 and 0.2 < shares[shares > 0].mean() < 0.35
    seed_everything(0)
    again = pack(dict(img=crops))['data_samples'].patch_masks
    assert (again[0] == masks[0]).all() and (again[1] == masks[1]).all()
    without = PackCrops(mask_prob=0.0)(dict(img=crops))['data_samples']
    assert 'patch_masks' not in without.metainfo


def test_the_published_crops(tmp_path):
    from mmengine.config import Config

    from ..tools import ROOT

    pipeline = Config.fromfile(ROOT / 'configs/_base_/datasets/photos.py').train_pipeline
    views = Compose(pipeline[1:])
    picture = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    seed_everything(5)
    first = views(dict(img=picture.copy(), img_shape=(90, 130)))
    assert first['data_samples'].crop_shapes == ((224, 224),) * 2 + ((98, 98),) * 8
    seed_everything(5)
    assert (views(dict(img=picture, img_shape=(90, 130)))['inputs'] == first['inputs']).all()
    seed_everything(6)
    assert (views(dict(img=picture, img_shape=(90, 130)))['inputs'] != first['inputs']).any()


def test_errors():
    with pytest.raises(InputError, match='mask_prob of PackCrops must lie in 0..1, but is 2'):
        PackCrops(mask_prob=2)
    with pytest.raises(InputError, match=r'mask_ratio of PackCrops .* but is \(0.5, 0.1\)'):
        PackCrops(mask_ratio=(0.5, 0.1))
    with pytest.raises(InputError, match='patch_size and min_block .* at least 1, but are 0 and 4'):
        PackCrops(patch_size=0)
    with pytest.raises(InputError, match=r'aspect_range of PackCrops .* above 0, but is \(0, 3\)'):
        PackCrops(aspect_range=(0, 3))
    with pytest.raises(InputError, match='put mmpretrain.MultiView before it'):
        PackCrops()(dict(img=np.zeros((28, 28, 3), np.uint8)))
