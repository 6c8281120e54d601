"""Points in polygons against a point-by-point reference, and against COCO's bitmaps."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from mmdet_dinov2.layers import polygons as module
from mmdet_dinov2.layers.polygons import points_in_polygons

from ..reference.masks import inside_polygon

SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]
STAR = [20, 0, 27, 38, 0, 12, 40, 12, 13, 38]  # crosses itself
AROUND_HOLE = [0, 0, 40, 0, 40, 40, 0, 40, 0, 0, 10, 10, 10, 30, 30, 30, 30, 10, 10, 10]


@pytest.mark.parametrize('pairs', [2**22, 7])
def test_equal_to_the_reference(pairs, monkeypatch):
    monkeypatch.setattr(module, '_PAIRS_AT_ONCE', pairs)
    points = torch.rand(200, 2) * 45 - 2
    shapes = [
        SQUARE,
        np.array(STAR, dtype=np.float32),
        AROUND_HOLE,
        torch.rand(14).mul(40).tolist(),
    ]
    got = points_in_polygons(points, shapes)
    expected = [[inside_polygon(shape, p) for p in points.tolist()] for shape in shapes]
    assert torch.equal(got, torch.tensor(expected))
    assert 0 < got.float().mean() < 1


def test_centres_of_pixels_are_those_of_cocos_bitmap():
    polygon = [3.0, 2.0, 31.0, 9.0, 25.0, 33.0, 8.0, 28.0]
    (encoded,) = coco_mask.frPyObjects([polygon], 40, 40)
    y, x = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(40) + 0.5, indexing='ij')
    got = points_in_polygons(torch.stack((x, y), -1).view(-1, 2), [polygon]).view(40, 40)
    bitmap = torch.from_numpy(coco_mask.decode(encoded)).bool()
    # COCO rounds outlines to pixels, so that those at the border may differ.
    assert (got & bitmap).sum() / (got | bitmap).sum() > 0.93


def test_no_polygons_and_no_points():
    assert points_in_polygons(torch.rand(5, 2), []).shape == (0, 5)
    assert points_in_polygons(torch.rand(0, 2), [SQUARE]).shape == (1, 0)
    assert not points_in_polygons(torch.rand(5, 2), [[]]).any()
