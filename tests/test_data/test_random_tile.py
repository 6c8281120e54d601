"""Random tiles to train on: seeded, with boxes that are visible enough, some of them empty."""

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmdet.structures.bbox import HorizontalBoxes

from mmdet_dinov2.data.random_tile import RandomTile
from mmdet_dinov2.data.seeded import SeededDataset, SeededIndex
from mmdet_dinov2.data.tiled_loading import DecodedImage
from mmdet_dinov2.errors import InputError

SHAPE = (130, 170)


def results(boxes, shape=SHAPE):
    """An image whose pixels say where they are, and boxes with their numbers as labels."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    pixels = np.stack([rows, columns, rows * 0], -1).astype(np.uint8)
    return dict(
        large_image=DecodedImage(pixels),
        img_shape=shape,
        gt_bboxes=HorizontalBoxes(np.array(boxes, dtype=np.float32).reshape(-1, 4)),
        gt_bboxes_labels=np.arange(len(boxes)),
        gt_ignore_flags=np.zeros(len(boxes), dtype=bool),
    )


def cut(tile, boxes, shape=SHAPE):
    """Returns the tile, its top left corner, and its boxes by their numbers in the image."""
    out = tile.transform(results(boxes, shape))
    y, x = out['img'][0, 0, :2].tolist()
    moved = out['gt_bboxes'].tensor.numpy() + [x, y, x, y]
    assert len(moved) == len(out['gt_bboxes_labels']) == len(out['gt_ignore_flags'])
    assert out['img'].shape[:2] == out['img_shape'] and out['img'].flags.c_contiguous
    return out, (x, y), dict(zip(out['gt_bboxes_labels'].tolist(), moved.tolist(), strict=True))


def test_boxes_are_kept_by_their_visible_share():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, (140, 100), (40, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(3, 30, (40, 2))], 1)
    tile = RandomTile(64, empty_share=0.0, min_visible=0.4)
    seen = set()
    for seed in range(120):
        np.random.seed(seed)
        out, (x, y), found = cut(tile, boxes)
        assert out['img_shape'] == (64, 64) and found
        for number, box in enumerate(boxes):
            low, high = np.maximum(box[:2], (x, y)), np.minimum(box[2:], (x + 64, y + 64))
            share = np.prod(np.clip(high - low, 0, None)) / np.prod(box[2:] - box[:2])
            if abs(share - 0.4) > 1e-4:
                assert (number in found) == (share > 0.4)
            if number in found:
                assert np.allclose(found[number], [*low, *high], atol=1e-4)
        whole = [n for n in found if np.allclose(found[n], boxes[n], atol=1e-4)]
        assert whole  # at least the box that the tile was made for
        seen.update(whole)
    assert len(seen) > 37


def test_a_share_of_the_tiles_is_empty():
    boxes = [[20, 20, 40, 40], [120, 90, 140, 110]]
    tile = RandomTile(32, empty_share=0.3)
    empty = 0
    for seed in range(300):
        np.random.seed(seed)
        _, (x, y), found = cut(tile, boxes)
        empty += not found
        if not found:
            assert all(
                x >= box[2] or y >= box[3] or x + 32 <= box[0] or y + 32 <= box[1] for box in boxes
            )
    assert 60 < empty < 120
    np.random.seed(0)
    assert cut(RandomTile(32, empty_share=1.0), [[0, 0, 170, 130]])[2]  # there is no empty one


@pytest.mark.parametrize('shape', [(130, 40), (30, 170), (30, 40), (64, 64)])
def test_small_images_and_large_boxes(shape):
    for seed in range(10):
        np.random.seed(seed)
        out, _, found = cut(RandomTile(64, empty_share=0.0), [[0, 0, shape[1], 20]], shape)
        assert out['img_shape'] == tuple(min(side, 64) for side in shape) and found
        assert not cut(RandomTile(64), [], shape)[2]
    for seed in range(20):
        np.random.seed(seed)
        tile = RandomTile(64, empty_share=0.0, min_visible=0.1)
        _, (x, y), found = cut(tile, [[10, 10, 165, 125]])
        assert 10 <= x <= 101 and 10 <= y <= 61 and found  # inside of the box


class Pictures:
    """A dataset of one image."""

    def __init__(self):
        self.pipeline = Compose([dict(type='RandomTile', size=48), dict(type='PackDetInputs',
                                                                        meta_keys=())])  # fmt: skip

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return self.pipeline(results([[20, 20, 40, 40], [120, 90, 140, 110]]))


def test_a_tile_depends_on_the_seed_of_its_sample_only():
    dataset = SeededDataset(Pictures())
    first = [dataset[SeededIndex(0, seed)]['inputs'] for seed in (3, 4, 5)]
    np.random.seed(77)
    again = [dataset[SeededIndex(index, seed)]['inputs'] for index, seed in ((2, 5), (1, 3))]
    assert torch.equal(again[0], first[2]) and torch.equal(again[1], first[0])
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(size=0), 'size must be a whole number of at least 1, but is 0'),
        (dict(size=64, empty_share=1.5), 'empty_share must lie in 0 to 1'),
        (dict(size=64, min_visible=0), 'min_visible must be above 0'),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(InputError, match=message):
        RandomTile(**settings)
