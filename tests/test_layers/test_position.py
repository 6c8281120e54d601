"""Rotary positions against their definition."""

import pytest
import torch

from mmdet_dinov2.layers import RotaryPosition, TokenLayout, rotate

from ..reference.rotary import slow_rotate

GRIDS = [(1, 1), (3, 5), (6, 2)]


@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('dim', [4, 16])
def test_queries_turn_as_defined(grid, dim):
    rows, cols = grid
    x = torch.randn(rows * cols, 2, 3, dim)  # queries and keys of three heads
    turned = rotate(x, RotaryPosition(dim)(grid))
    for row in range(rows):
        for col in range(cols):
            token = row * cols + col
            for head in range(3):
                expected = slow_rotate(x[token, 1, head], row, col, rows, cols)
                torch.testing.assert_close(
                    turned[token, 1, head].double(), expected, rtol=0, atol=1e-5
                )


def test_gradients_of_a_rotation():
    # The table has no gradient.
    x = torch.randn(3, 2, 2, 8, dtype=torch.float64, requires_grad=True)
    table = torch.randn(3, 2, 8, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: rotate(x, table), x)


def test_scores_depend_on_the_difference_of_places():
    """The score of a query at one cell and a key three cells to the right is the same anywhere."""
    rows, cols = 4, 9
    table = RotaryPosition(16)((rows, cols)).view(rows, cols, 2, 16)
    query, key = torch.randn(2, 16)
    first, second = table[:, :-3].flatten(0, 1), table[:, 3:].flatten(0, 1)
    queries, keys = (x.expand(len(first), -1) for x in (query, key))
    scores = (rotate(queries, first) * rotate(keys, second)).sum(1)
    torch.testing.assert_close(scores, scores[0].expand(len(scores)))
    assert not torch.isclose(scores[0], query @ key)


@pytest.mark.parametrize('window', [0, 2])
def test_the_table_of_a_stream_goes_by_image_and_order(window):
    layout = TokenLayout(((3, 4), (2, 2), (3, 4)), num_prefix=2, window_size=window)
    position = RotaryPosition(8)
    called = []

    def of_grid(grid):
        called.append(grid)
        return position(grid)

    table = layout.by_place(of_grid, position.unrotated())
    assert table.shape == (sum(layout.lengths), 2, 8)
    assert sorted(called) == [(2, 2), (3, 4)]  # equal grids share
    for image, (part, grid) in enumerate(
        zip(table.split(layout.lengths), layout.grids, strict=True)
    ):
        assert torch.equal(layout.to_row_major(part[2:], image), position(grid))
        tokens = torch.randn(2, 3, 8)
        assert torch.equal(rotate(tokens, part[:2]), tokens)


def test_under_autocast_table_and_rotation_stay_in_fp32():
    position = RotaryPosition(16)
    expected = position((5, 7))
    x = torch.randn(35, 2, 16).bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        table = position((5, 7))
        turned = rotate(x, table)
    assert table.dtype == torch.float32 and torch.equal(table, expected)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, rotate(x.float(), expected).bfloat16())
    # It would be noticed.
    assert not torch.equal(turned, rotate(x, expected.bfloat16()))


def test_gradients_turn_back():
    x = torch.randn(6, 2, 8, dtype=torch.float64, requires_grad=True)
    table = RotaryPosition(8)((2, 3)).double()
    assert torch.autograd.gradcheck(lambda q: rotate(q, table), x)


def test_heads_that_cannot_turn_are_named():
    with pytest.raises(ValueError, match='multiple of 4 channels, got 6'):
        RotaryPosition(6)
