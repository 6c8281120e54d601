"""Where tiles lie: they cover the image, overlap enough, and are as few as that takes."""

import math

import pytest

from mmdet_dinov2.layers.tiles import tile_boxes


@pytest.mark.parametrize('size', [1, 14, 97, 224])
@pytest.mark.parametrize('overlap', [0, 0.2, 0.5, 0.9])
def test_tiles_cover_every_length(size, overlap):
    shared = int(size * overlap)
    for length in [1, size - 1 or 1, size, size + 1, 2 * size - shared, 2 * size - shared + 1, 701]:
        tiles = tile_boxes(1, length, size, overlap)
        spans = [(x1, x2) for x1, _, x2, _ in tiles]
        assert spans[0][0] == 0 and spans[-1][1] == length
        assert all(0 < x2 - x1 <= size for x1, x2 in spans)
        assert len({x2 - x1 for x1, x2 in spans}) == 1
        for (_, end), (start, _) in zip(spans, spans[1:]):
            assert shared <= end - start
        # The fewest: with one less, tiles of full size would not reach the end.
        count = len(spans)
        assert count == 1 or (count - 1) * (size - shared) + shared < length
        assert count == max(1, math.ceil((length - shared) / (size - shared)))


def test_every_object_of_the_overlap_lies_in_a_tile():
    tiles = tile_boxes(61, 83, 32, 0.25)
    for x in range(83 - 8 + 1):
        for y in range(61 - 8 + 1):
            assert any(
                x1 <= x and x + 8 <= x2 and y1 <= y and y + 8 <= y2 for x1, y1, x2, y2 in tiles
            )


def test_tiles_of_a_grid_row_by_row():
    assert tile_boxes(20, 30, 30, 0.2) == [(0, 0, 30, 20)]
    assert tile_boxes(20, 30, 20, 0.2) == [(0, 0, 17, 20), (13, 0, 30, 20)]
    first, *_, last = tile_boxes(1680, 2240, 336, 0.2)
    assert len(tile_boxes(1680, 2240, 336, 0.2)) == 54
    assert first[:2] == (0, 0) and last[2:] == (2240, 1680)
