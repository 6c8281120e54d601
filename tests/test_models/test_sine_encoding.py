"""Encodings of cells and of boxes are those of mmdet."""

import pytest
import torch
from mmdet.models.layers import SinePositionalEncoding
from mmdet.models.layers.transformer.utils import coordinate_to_encoding

from mmdet_dinov2.layers import GridPyramidLayout, PyramidLayout
from mmdet_dinov2.layers.padding import padding_mask
from mmdet_dinov2.models.sine_encoding import CellEncoding, encode_boxes, sine_periods

DEVICE = torch.device('cpu')
SIZES = [(45, 83), (64, 17), (1, 1)]
LAYOUTS = [
    PyramidLayout(SIZES, (8, 16, 32.0), DEVICE),
    GridPyramidLayout([(31, 45), (9, 16)], (8, 16), DEVICE, [((3, 6), (1, 3)), ((1, 2), (1, 1))]),
]


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize(
    'options',
    [dict(normalize=True, offset=-0.5), dict(normalize=True, temperature=20), dict(offset=0.3)],
)
def test_cells(layout, options):
    theirs = SinePositionalEncoding(num_feats=6, **options)
    maps = []
    for cells in zip(*layout.grids, strict=True):
        size = tuple(max(sides) + 1 for sides in zip(*cells, strict=True))
        maps.append(theirs(padding_mask(cells, size, DEVICE)))
    assert torch.equal(CellEncoding(num_feats=6, **options)(layout), layout.pack(maps))


def test_boxes():
    boxes = torch.rand(2, 5, 4)
    expected = coordinate_to_encoding(boxes, num_feats=8)
    assert torch.equal(encode_boxes(boxes, sine_periods(8, 10000, DEVICE)), expected)
