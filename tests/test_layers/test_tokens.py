import pytest
import torch

from mmdet_dinov2.layers import Segments, TokenLayout
from mmdet_dinov2.layers.tokens import _offsets, window_order


def test_segments_join_neighbours_of_equal_length():
    segments = Segments.from_lengths([3, 3, 0, 5, 3])
    assert segments.runs == ((2, 3), (1, 5), (1, 3))
    assert segments.lengths == (3, 3, 5, 3)
    assert segments.num_tokens == 14
    assert segments.max_length == 5
    assert segments.offsets(torch.device('cpu')).tolist() == [0, 3, 6, 11, 14]


@pytest.mark.parametrize('grid', [(1, 1), (4, 6), (5, 7), (9, 2)])
@pytest.mark.parametrize('window', [1, 2, 3, 20])
def test_window_order_holds_every_token_once_in_its_window(grid, window):
    lengths, order, inverse = window_order(grid, window)
    rows, cols = grid
    assert sorted(order.tolist()) == list(range(rows * cols))
    assert order[inverse].tolist() == list(range(rows * cols))
    windows = [
        {(token // cols // window, token % cols // window) for token in part.tolist()}
        for part in order.split(lengths)
    ]
    assert all(len(cells) == 1 for cells in windows)
    assert len(windows) == -(-rows // window) * -(-cols // window)


@pytest.mark.parametrize('window', [0, 3])
def test_a_stream_turns_back_into_the_same_maps(window):
    grids = ((4, 7), (5, 2), (4, 7))
    layout = TokenLayout(grids, num_prefix=2, window_size=window)
    maps = [torch.randn(6, *grid) for grid in grids]
    stream = torch.cat(
        [
            torch.cat((torch.full((2, 6), 9.0), layout.to_stream_order(m.flatten(1).T, i)))
            for i, m in enumerate(maps)
        ]
    )
    out = layout.to_maps(stream, (6, 8))
    assert out.shape == (3, 6, 6, 8)
    for i, (rows, cols) in enumerate(grids):
        torch.testing.assert_close(out[i, :, :rows, :cols], maps[i], rtol=0, atol=0)
        assert out[i].count_nonzero() == maps[i].count_nonzero()


def test_equal_images_give_one_dense_run():
    layout = TokenLayout(((3, 5),) * 4, num_prefix=1)
    assert layout.image_segments.runs == ((4, 16),)


def test_prefix_is_a_segment_of_its_own_in_windows():
    layout = TokenLayout(((3, 4), (2, 2)), num_prefix=5, window_size=2)
    # A prefix, 2 full windows, 2 cut by the bottom; a prefix, 1 full window.
    assert layout.window_segments.lengths == (5, 4, 4, 2, 2, 5, 4)
    assert layout.image_segments.lengths == (17, 9)


def test_select_keeps_the_tokens_of_the_images():
    layout = TokenLayout(((2, 2), (3, 1), (1, 1)), num_prefix=1)
    assert layout.token_index([0, 2], torch.device('cpu')).tolist() == [0, 1, 2, 3, 4, 9, 10]
    assert layout.token_index([], torch.device('cpu')).tolist() == []
    assert layout.select([0, 2]).lengths == (5, 2)


def test_windows_need_a_window_size():
    with pytest.raises(ValueError, match='window_size=0'):
        TokenLayout(((2, 2),), 1).segments(windowed=True)


def test_what_is_cached_in_inference_mode_serves_a_training():
    window_order.cache_clear()
    _offsets.cache_clear()
    layout = TokenLayout(((3, 5), (4, 4)), num_prefix=1, window_size=2)
    stream = torch.randn(15, 6, requires_grad=True)
    for training in (False, True):
        with torch.inference_mode(not training):
            offsets = layout.image_segments.offsets(stream.device)
            assert not offsets.is_inference() and offsets.tolist() == [0, 16, 33]
            reordered = layout.to_stream_order(stream, 0)
    reordered.square().sum().backward()
    assert torch.equal(stream.grad, 2 * stream.detach())
