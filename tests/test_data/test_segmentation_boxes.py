"""Boxes around polygons and masks, and hostile masks."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmdet_dinov2.data.segmentation_boxes import box_around


def encode(mask, compressed):
    """Returns a mask in run-length encoding, written out for the uncompressed form."""
    if compressed:
        encoded = coco_mask.encode(np.asfortranarray(mask))
        return dict(encoded, counts=encoded['counts'].decode())
    flat = mask.flatten(order='F')
    runs, value = [], 0
    while flat.size:
        changes = np.flatnonzero(flat != value)
        length = int(changes[0]) if changes.size else flat.size
        runs.append(length)
        flat, value = flat[length:], 1 - value
    return dict(size=list(mask.shape), counts=runs)


@pytest.mark.parametrize('compressed', [True, False])
@pytest.mark.parametrize('seed', range(8))
def test_boxes_around_masks(seed, compressed):
    rng = np.random.default_rng(seed)
    mask = np.zeros(rng.integers(1, 300, 2), np.uint8)
    rows, columns = (np.sort(rng.integers(0, side, 2)) for side in mask.shape)
    mask[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1] = 1
    mask &= rng.random(mask.shape) < 0.9
    ys, xs = np.nonzero(mask)
    expected = None
    if len(xs):
        expected = [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
    assert box_around(encode(mask, compressed)) == expected


@pytest.mark.parametrize(
    ('segmentation', 'box'),
    [
        ([[1, 2, 11, 2, 6, 9.5]], [1, 2, 10, 7.5]),
        ([[1, 2, 3, 2, 3, 4], [20, 0, 21, 1, 20, 1]], [1, 0, 20, 4]),  # in two parts
        ([1, 2, 11, 2, 6, 9], [1, 2, 10, 7]),
        ([[1, 2], [11, 2], [6, 9]], [1, 2, 10, 7]),
        ([], None),
        ([[]], None),
        ([[1, 2, 3]], None),
        ([[1, 2, '3', 4]], None),
        ([[1, 2, 10**400, 4]], None),
        (None, None),
        ('text', None),
    ],
)
def test_polygons(segmentation, box):
    assert box_around(segmentation) == box


@pytest.mark.parametrize(
    'mask',
    [
        dict(size=[0, 4], counts=[4]),  # the C code divides by the height
        dict(size=[4, 4], counts='0oo'),  # its last run goes on
        dict(size=[4, 4], counts='\x00'),
        dict(size=[4, 4], counts='PPPPPPPPPPPPPPPPPPPP0'),
        dict(size=[4, 4], counts=[-1, 2]),
        dict(size=[4, 4], counts=[2**40]),
        dict(size=[4, 4], counts=[1.5]),
        dict(size=[10**9, 4], counts=[1]),
        dict(size=[4, 4]),
        dict(size=4, counts=[1]),
        dict(size=[4, 4], counts=''),
        dict(size=[4, 4], counts=[]),
        dict(size=[4, 4], counts=[16]),
        {},
    ],
)
def test_masks_that_cannot_be_read_have_no_box(mask):
    assert box_around(mask) is None
