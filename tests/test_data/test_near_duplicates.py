"""Near-duplicates: thumbnails, and comparisons in blocks."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmdet_dinov2.data.near_duplicates import (
    MIN_CORRELATION,
    SIDE,
    Copies,
    Thumbnails,
    find_copies,
    nearest,
    thumbnail,
)

from ..reference.photo_selection import best_correlation, correlation


def random_thumbnails(count, seed=0):
    """Blurred noise: neighbouring pixels are alike, as in photos."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (count, 8, 8), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(c).resize((SIDE, SIDE))) for c in coarse])


class Vectors:
    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, rows):
        return self.values[rows]


@pytest.mark.parametrize('only_earlier', [False, True])
@pytest.mark.parametrize('block', [3, 5, 100])
def test_neighbours_of_blocks_are_those_of_all_pairs(only_earlier, block):
    torch.manual_seed(1)
    queries = torch.randn(13, 6)
    references = queries if only_earlier else torch.randn(11, 6)
    found = nearest(
        Vectors(queries), Vectors(references), 4, only_earlier=only_earlier, block=block
    )
    for row, query in enumerate(queries):
        known = references[:row] if only_earlier else references
        products = [float(query @ reference) for reference in known]
        order = sorted(range(len(products)), key=lambda place: -products[place])[:4]
        missing = 4 - len(order)
        assert found.index[row].tolist() == order + [-1] * missing
        expected = [products[place] for place in order] + [-np.inf] * missing
        assert found.similarity[row] == pytest.approx(expected, abs=1e-5)


def test_nothing_to_find():
    nothing = Vectors(torch.zeros(0, 6))
    assert nearest(Vectors(torch.randn(3, 6)), nothing, 2).index.tolist() == [[-1, -1]] * 3
    assert nearest(nothing, Vectors(torch.randn(3, 6))).index.shape == (0, 1)
    some = Thumbnails(random_thumbnails(2))
    none = some.of(np.zeros(0, dtype=int))
    assert find_copies(some, none).index.tolist() == [-1, -1]
    assert find_copies(none, some).index.shape == (0,)
    candidates = np.full((2, 3), -1)
    assert find_copies(some, none, candidates).index.tolist() == [-1, -1]


def check_copies(found: Copies, photos, references, places_of, least):
    for row, photo in enumerate(photos):
        best = max(
            ((*best_correlation(photo, references[place]), place) for place in places_of(row)),
            default=(-1.0, False, -1),
        )
        assert found.index[row] == (best[2] if best[0] >= least else -1)
        if best[2] >= 0:
            assert found.correlation[row] == pytest.approx(best[0], abs=1e-5)
            assert found.mirrored[row] == best[1]


def test_copies_are_those_of_all_pairs_in_both_orientations():
    references = random_thumbnails(9)
    rng = np.random.default_rng(3)
    photos = random_thumbnails(7, seed=1)
    photos[2] = references[5]
    noisy = references[1][:, ::-1].astype(int) + rng.integers(-6, 7, (SIDE, SIDE))
    photos[4] = noisy.clip(0, 255)
    arguments = Thumbnails(photos), Thumbnails(references)
    found = find_copies(*arguments, block=2)
    check_copies(found, photos, references, lambda row: range(9), MIN_CORRELATION)
    assert found.found.tolist() == [2, 4] and found.index[[2, 4]].tolist() == [5, 1]
    assert found.mirrored.tolist()[2] is False and found.mirrored.tolist()[4] is True
    # Among candidates only.
    candidates = np.array([[0, 1, -1]] * 7)
    candidates[2] = 5, 8, 7
    found = find_copies(*arguments, candidates, block=2)
    check_copies(
        found,
        photos,
        references,
        lambda row: candidates[row][candidates[row] >= 0],
        MIN_CORRELATION,
    )
    assert found.found.tolist() == [2, 4]
    candidates[:] = -1
    assert find_copies(*arguments, candidates).found.tolist() == []


def test_pictures_without_contrast_are_like_no_other():
    grey = np.full((3, SIDE, SIDE), 200, np.uint8)
    grey[1, ::2] += 1
    assert correlation(grey[0], grey[1]) == 0
    assert (Thumbnails(grey)[:] == 0).all()
    assert find_copies(Thumbnails(grey), Thumbnails(grey)).found.tolist() == []


def test_some_thumbnails_of_some():
    grey = random_thumbnails(6)
    some = Thumbnails(grey).of(np.array([4, 1, 3])).of(np.array([2, 0]))
    assert len(some) == 2
    assert torch.equal(some[:], Thumbnails(grey)[np.array([3, 4])])
    assert torch.equal(some.mirror()[:1], Thumbnails(grey[3:4, :, ::-1])[:])


@pytest.mark.parametrize('size', [(1, 1), (200, 3), (31, 500), (640, 480)])
def test_thumbnails_of_any_size(size):
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    small = thumbnail(pixels)
    assert small.shape == (SIDE, SIDE) and small.dtype == np.uint8
    assert small.mean() == pytest.approx(pixels.mean(), abs=3)
