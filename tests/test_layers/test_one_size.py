"""Layouts for exported models against the layouts of training, on images of one size."""

import pytest
import torch
import torch.nn.functional as F

from mmdet_dinov2.layers import (
    Attention,
    PyramidLayout,
    TokenLayout,
    deformable_attention,
    interpolate_pos_embed,
    valid_cells,
)
from mmdet_dinov2.layers.bicubic import bicubic_weights, interpolate_grid
from mmdet_dinov2.layers.deformable_attention_gather import gather_attention
from mmdet_dinov2.layers.one_size import (
    OneSizeGridPyramidLayout,
    OneSizePyramidLayout,
    OneSizeTokenLayout,
)
from mmdet_dinov2.layers.pyramid import GridPyramidLayout

CPU = torch.device('cpu')


def row_major(stream, layout):
    """The tokens of a stream with windows, image after image, in row-major order."""
    images = []
    for image, tokens in enumerate(stream.split(layout.lengths)):
        images += (
            tokens[: layout.num_prefix],
            layout.to_row_major(tokens[layout.num_prefix :], image),
        )
    return torch.cat(images)


@pytest.mark.parametrize('window_size', [0, 3])
@pytest.mark.parametrize('grid', [(7, 5), (6, 9), (2, 2)])
def test_tokens_attend_within_the_same_segments(grid, window_size):
    windowed = bool(window_size)
    layout = TokenLayout((grid, grid), 2, window_size)
    one_size = OneSizeTokenLayout(2, grid, 2, window_size)
    attention = Attention(8, 2)
    stream = torch.randn(sum(layout.lengths), 8)
    expected = row_major(attention(stream, layout.segments(windowed)), layout)
    got = attention(row_major(stream, layout), one_size.segments(windowed))
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(
        one_size.to_maps(row_major(stream, layout), grid), layout.to_maps(stream, grid)
    )
    # In training, a window never sees another one, or the test could not fail.
    assert (
        not windowed
        or grid == (2, 2)
        or not torch.allclose(got, attention(row_major(stream, layout), one_size.segments(False)))
    )


def test_values_by_place_are_those_of_the_stream():
    layout, one_size = TokenLayout(((3, 4),) * 2, 2), OneSizeTokenLayout(2, (3, 4), 2)

    def of_grid(grid):
        return torch.arange(grid[0] * grid[1] * 2.0).view(-1, 2)

    prefix = torch.tensor([-1.0, -2.0])
    expected = layout.by_place(of_grid, prefix)
    assert torch.equal(one_size.by_place(of_grid, prefix), expected)


@pytest.mark.parametrize('size', [(75, 52), (28, 57)])
def test_cells_of_a_pyramid_are_in_the_same_places(size):
    strides = (3.5, 7.0, 14.0, 28.0)
    layout = PyramidLayout([size] * 2, strides, CPU)
    grid = [valid_cells([size], stride)[0] for stride in strides]
    one_size = OneSizePyramidLayout(2, size, grid, strides, CPU)
    for name in ('shapes', 'extents', 'images', 'levels', 'centers'):
        assert torch.equal(getattr(one_size, name), getattr(layout, name)), name
    assert one_size.shift_in_cells == layout.shift_in_cells
    maps = [torch.randn(2, 5, *sides) for sides in grid]
    assert torch.equal(one_size.pack(maps), layout.pack(maps))
    scores = torch.randn(sum(layout.lengths))
    for count in (7, layout.lengths[0] + 3):
        values, index = layout.best(scores, count)
        found, places = one_size.best(scores, count)
        assert torch.equal(found, values)
        real = values.isfinite()
        assert torch.equal(places[real], index[real]) and torch.equal(
            scores[index[real]], values[real]
        )


def test_cells_of_a_pyramid_with_coordinates_of_the_grids():
    size, strides = (75, 52), (7.0, 14.0)
    grid = [(10, 7), (5, 3)]
    layout = GridPyramidLayout([size] * 2, strides, CPU, [grid] * 2)
    one_size = OneSizeGridPyramidLayout(2, size, grid, strides, CPU)
    for name in ('shapes', 'extents', 'centers'):
        assert torch.equal(getattr(one_size, name), getattr(layout, name)), name
    assert one_size.shift_in_cells == layout.shift_in_cells == 0


def test_cells_are_counted_without_rounding_errors():
    assert valid_cells([(7, 8), (1, 15)], 3.5) == [(2, 3), (1, 5)]
    assert valid_cells([(64, 65)], 64.0) == [(1, 2)]


@pytest.mark.parametrize('size', [1, 4, 6, 13, 40])
@pytest.mark.parametrize(('antialias', 'offset'), [(False, 0.1), (False, 0.0), (True, 0.0)])
def test_weights_by_arithmetic_are_those_of_interpolating(size, antialias, offset):
    side = 6
    units = torch.eye(side)[None, None]
    scale = dict(scale_factor=((size + offset) / side, 1.0)) if offset else dict(size=(size, side))
    expected = F.interpolate(units, mode='bicubic', antialias=antialias, **scale)[0, 0]
    got = bicubic_weights(side, size, antialias, offset, CPU)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize('size', [(6, 6), (6, 9), (3, 11)])
@pytest.mark.parametrize(('antialias', 'offset'), [(False, 0.1), (True, 0.0)])
def test_grids_by_arithmetic_are_those_of_training(size, antialias, offset):
    pos_embed = torch.randn(1, 36, 4)
    expected = interpolate_pos_embed(pos_embed, size, antialias, offset)
    got = interpolate_grid(pos_embed[0].view(6, 6, 4), size, antialias, offset)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * (size != (6, 6)))


def test_gathers_sample_as_the_operator_does():
    torch.manual_seed(0)
    shapes = torch.tensor([[[5, 3], [2, 2]], [[4, 7], [2, 4]], [[1, 1], [1, 2]]])
    images = torch.arange(3).repeat_interleave(torch.tensor([6, 4, 2]))
    value = torch.randn(int(shapes.prod(2).sum()), 2, 8)
    # Some of them outside.
    locations = torch.rand(12, 2, 2, 4, 2) * 1.6 - 0.3
    weights = torch.rand(12, 2, 2, 4)
    expected = deformable_attention(value, shapes, locations, weights, query_images=images)
    got = gather_attention(value, shapes, images, locations, weights)
    torch.testing.assert_close(got, expected)
    locations[3] = torch.nan
    assert gather_attention(value, shapes, images, locations, weights)[3].isnan().all()
