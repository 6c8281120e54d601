"""Outlines of masks, which cover exactly their pixels by the rules of pycocotools."""

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmdet_dinov2.mask_outlines import mask_outlines, mask_polygons


def covered(polygons, size):
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *size))).astype(bool)


def random_mask(seed):
    """Returns noise with holes and corners that touch, or blobs; also single rows and columns."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(1, 40, 2))
    if seed % 2:
        return rng.uniform(size=(height, width)) < rng.choice([0.2, 0.5, 0.9])
    blobs = cv2.resize(rng.uniform(size=(5, 5)).astype(np.float32), (width, height))
    return blobs > 0.5


@pytest.mark.parametrize('part', range(4))
def test_polygons_cover_exactly_the_mask(part):
    num_holes = 0
    for seed in range(50 * part, 50 * part + 50):
        mask = random_mask(seed)
        polygons = mask_polygons(mask)
        if not mask.any():
            assert polygons == []
            continue
        assert (covered(polygons, mask.shape) == mask).all(), seed
        num_holes += sum(len(outlines) - 1 for outlines in mask_outlines(mask))
    assert num_holes > 20


def test_corners_are_those_of_the_pixels():
    mask = np.zeros((7, 9), dtype=bool)
    mask[2:5, 3:9] = True
    (polygon,) = mask_polygons(mask)
    corners = set(zip(polygon[0::2], polygon[1::2]))
    assert len(polygon) == 8 and corners == {(3, 2), (9, 2), (9, 5), (3, 5)}


def test_a_hole_is_an_outline_of_its_own():
    mask = np.ones((5, 7), dtype=bool)
    mask[1:3, 2:4] = False
    ((outer, hole),) = mask_outlines(mask)
    assert outer.min() == 0 and outer.max() == 7
    assert sorted(map(tuple, hole.tolist())) == [(2, 1), (2, 3), (4, 1), (4, 3)]


def test_a_tolerance_leaves_out_corners():
    rows, columns = np.mgrid[:60, :80]
    mask = np.hypot(rows - 30, columns - 41) < 25.5
    exact, fewer = mask_polygons(mask), mask_polygons(mask, tolerance=1)
    assert len(fewer[0]) < len(exact[0]) / 3
    near = covered(fewer, mask.shape)
    assert (near & mask).sum() / (near | mask).sum() > 0.95
    tiny = np.zeros((4, 4), dtype=bool)
    tiny[1, 1] = True
    assert (covered(mask_polygons(tiny, tolerance=5), tiny.shape) == tiny).all()
