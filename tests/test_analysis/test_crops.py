"""The part of a large image that a report shows."""

import numpy as np

from mmdet_dinov2.analysis.crops import CROP_SIDE, crop_around, shifted
from mmdet_dinov2.instance_masks import decode_mask, encode_masks


def test_the_part_with_the_most_boxes():
    few = [[10, 10, 20, 20], [3900, 20, 10, 10]]
    many = [[2000 + 50 * i, 1500 + 40 * i, 30, 20] for i in range(6)]
    x1, y1, x2, y2 = crop_around([*few, *many], 4000, 3000)
    assert (x2 - x1, y2 - y1) == (CROP_SIDE, CROP_SIDE)
    assert all(x1 <= x and x + 30 <= x2 and y1 <= y and y + 20 <= y2 for x, y, *_ in many)
    assert crop_around(few, 4000, 3000) == (0, 0, CROP_SIDE, CROP_SIDE)
    assert crop_around(few[1:], 4000, 300) == (4000 - CROP_SIDE, 0, 4000, 300)


def test_small_images_and_images_without_boxes_are_shown_as_a_whole():
    assert crop_around([[1, 2, 3, 4]], 2 * CROP_SIDE, 100) is None
    assert crop_around([], 4000, 3000) is None


def test_boxes_move_with_the_part():
    entry = dict(bbox=[110, 220, 30, 40], score=0.5)
    assert shifted(entry, (100, 200, 740, 840)) == dict(bbox=[10, 20, 30, 40], score=0.5)
    assert entry['bbox'] == [110, 220, 30, 40]
    assert shifted(entry, (120, 230, 130, 240)) is not None  # it lies around the part
    for corners in ((140, 0, 780, 840), (0, 0, 110, 840), (0, 260, 740, 900), (0, 0, 740, 220)):
        assert shifted(entry, corners) is None


def test_masks_move_with_the_part():
    mask = np.zeros((90, 120), dtype=bool)
    mask[20:60, 30:80] = True
    entry = dict(bbox=[30, 20, 50, 40], mask=encode_masks([mask])[0])
    moved = decode_mask(shifted(entry, (50, 10, 110, 50))['mask'])
    assert moved.shape == (40, 60) and (moved == mask[10:50, 50:110]).all()
