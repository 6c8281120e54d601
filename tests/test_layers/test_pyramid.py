import pytest
import torch

from mmdet_dinov2.layers import PyramidLayout

SHAPES = [(75, 52), (130, 190), (8, 29)]
STRIDES = (7.0, 14.0, 28.0)
# Rows and columns of each level, finest first.
GRIDS = [((11, 8), (6, 4), (3, 2)), ((19, 28), (10, 14), (5, 7)), ((2, 5), (1, 3), (1, 2))]


@pytest.fixture
def layout():
    return PyramidLayout(SHAPES, STRIDES, torch.device('cpu'))


def slow_cells():
    """Returns image, level, row and column of each cell, in the order of the stream."""
    return torch.tensor(
        [
            (image, level, row, column)
            for image, grids in enumerate(GRIDS)
            for level, (rows, cols) in enumerate(grids)
            for row in range(rows)
            for column in range(cols)
        ]
    )


def test_order_of_the_cells(layout):
    image, level, row, column = slow_cells().unbind(1)
    assert layout.grids == GRIDS
    assert layout.shapes.tolist() == [[list(grid) for grid in grids] for grids in GRIDS]
    assert sum(layout.lengths) == len(image) and layout.starts.tolist() == [0, 118, 825]
    assert torch.equal(layout.images, image) and torch.equal(layout.levels, level)
    sides = torch.tensor(SHAPES, dtype=torch.float32)[image]
    stride = torch.tensor(STRIDES)[level]
    centers = torch.stack((column + 0.5, row + 0.5), 1) * stride[:, None] / sides.flip(1)
    torch.testing.assert_close(layout.centers, centers)


def test_extents_lead_from_the_image_to_its_grids(layout):
    """The right border of an image of 52 pixels lies 52 / 14 of 4 cells from the left."""
    assert layout.extents[0, 1].tolist() == pytest.approx([52 / 14 / 4, 75 / 14 / 6])
    assert layout.extents[2, 2].tolist() == pytest.approx([29 / 28 / 2, 8 / 28])


@pytest.mark.parametrize('canvas', [(140, 196), (308, 224)])
def test_packed_are_the_valid_cells(layout, canvas):
    maps = [torch.randn(3, 5, int(canvas[0] / s), int(canvas[1] / s)) for s in STRIDES]
    maps = [m.requires_grad_() for m in maps]
    stream = layout.pack(maps)
    expected = torch.stack([maps[lvl][i, :, y, x] for i, lvl, y, x in slow_cells().tolist()])
    assert torch.equal(stream, expected)
    weight = torch.randn_like(stream)
    torch.testing.assert_close(
        torch.autograd.grad((stream * weight).sum(), maps),
        torch.autograd.grad((expected * weight).sum(), maps),
    )


def test_images_that_fill_the_canvas_are_packed_without_an_index():
    layout = PyramidLayout([(28, 56)] * 2, STRIDES[:2], torch.device('cpu'))
    maps = [torch.randn(2, 5, 4, 8), torch.randn(2, 5, 2, 4)]
    expected = torch.cat([m[i].flatten(1).T for i in range(2) for m in maps])
    assert torch.equal(layout.pack(maps), expected)


@pytest.mark.parametrize('shape', [(), (3,)])
def test_padded_rows_hold_one_image_each(layout, shape):
    stream = torch.randn(sum(layout.lengths), *shape)
    rows = layout.pad(stream, -7.0)
    assert rows.shape == (3, 707, *shape)
    for row, cells in zip(rows, stream.split(layout.lengths), strict=True):
        assert torch.equal(row[: len(cells)], cells) and (row[len(cells) :] == -7).all()
    alike = PyramidLayout([SHAPES[0]] * 2, STRIDES, torch.device('cpu'))
    stream = torch.randn(236, *shape)
    assert torch.equal(alike.pad(stream, 0.0), stream.view(2, 118, *shape))
