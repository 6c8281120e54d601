import math

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmdet_dinov2.data import shapes_drawing
from mmdet_dinov2.data.shapes_drawing import (
    CLASSES,
    LONG_SIDE,
    MAX_ASPECT_RATIO,
    draw_picture,
    place_shapes,
    sample_size,
)


def draw_on_black(seed, count=8, height=151, width=203):
    """Draws without background and noise, so that each shape has pixels of one colour."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    shapes = place_shapes(np.random.default_rng(seed), picture, count)
    return picture, shapes


def seen_pixels(picture, shape):
    """Returns the (N, 2) ``x, y`` of the pixels of a shape, found by its colour."""
    return np.argwhere((picture == shape.color).all(axis=2))[:, ::-1]


def test_boxes_are_tight_around_the_pixels():
    num_whole = num_covered = num_cut = 0
    for seed in range(25):
        picture, shapes = draw_on_black(seed)
        assert len({shape.color for shape in shapes}) == len(shapes)
        for shape in shapes:
            pixels = seen_pixels(picture, shape)
            x, y, w, h = shape.box
            low, high = pixels.min(axis=0), pixels.max(axis=0)
            if len(pixels) == shape.area:
                num_whole += 1
                assert (x, y, x + w - 1, y + h - 1) == (*low, *high)
            else:
                num_covered += 1
                assert (low >= (x, y)).all() and (high <= (x + w - 1, y + h - 1)).all()
            assert 0 <= x and 0 <= y and x + w <= picture.shape[1] and y + h <= picture.shape[0]
            num_cut += x == 0 or y == 0 or x + w == picture.shape[1] or y + h == picture.shape[0]
    assert num_whole > 50 and num_covered > 20 and num_cut > 10


def test_polygons_cover_the_pixels():
    num_whole = 0
    for seed in range(10):
        picture, shapes = draw_on_black(seed)
        for shape in shapes:
            height, width = picture.shape[:2]
            covered = coco_mask.decode(
                coco_mask.merge(coco_mask.frPyObjects(shape.polygons, height, width))
            )
            pixels = seen_pixels(picture, shape)
            assert covered.sum() == shape.area
            assert covered[pixels[:, 1], pixels[:, 0]].all()
            num_whole += len(pixels) == shape.area
    assert num_whole > 20


def test_every_shape_stays_visible():
    shares = []
    for seed in range(25):
        picture, shapes = draw_on_black(seed)
        shares += [len(seen_pixels(picture, shape)) / shape.area for shape in shapes]
    assert min(shares) >= 0.7
    assert min(shares) < 0.9, 'overlaps are expected'


def script_masks(monkeypatch, masks):
    """Lets place_shapes draw the given ``(mask, full_area)`` in turn, then always the last."""
    masks = list(masks)
    monkeypatch.setattr(
        shapes_drawing,
        '_random_mask',
        lambda rng, label, size: masks.pop(0) if len(masks) > 1 else masks[0],
    )


def block(x, y, w, h, full_area=None):
    mask = np.zeros((20, 30), dtype=bool)
    mask[y : y + h, x : x + w] = True
    return mask, full_area or w * h


@pytest.mark.parametrize(
    ('second', 'kept'),
    [
        (block(0, 0, 3, 10), 2),  # covers 30 % of the first
        (block(0, 0, 4, 10), 1),  # covers 40 % of it
        (block(20, 0, 7, 10, full_area=100), 2),  # 70 % inside the image
        (block(20, 0, 7, 10, full_area=101), 1),  # less
    ],
)
def test_shapes_seen_too_little_are_left_out(monkeypatch, second, kept):
    script_masks(monkeypatch, [block(0, 0, 10, 10), second])
    picture = np.zeros((20, 30, 3), dtype=np.uint8)
    shapes = place_shapes(np.random.default_rng(0), picture, 2)
    assert len(shapes) == kept
    assert shapes[0].box == (0, 0, 10, 10)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == kept + 1


def test_masks_come_with_their_area_before_clipping():
    rng = np.random.default_rng(0)
    num_cut = 0
    for _ in range(300):
        mask, full_area = shapes_drawing._random_mask(rng, CLASSES.index('circle'), (80, 120))
        columns, rows = mask.any(axis=0), mask.any(axis=1)
        num_sides = int(columns[0]) + columns[-1] + rows[0] + rows[-1]
        # Cut by one side of the image, a circle still has its diameter along that side.
        diameter, rest = max(columns.sum(), rows.sum()), min(columns.sum(), rows.sum())
        if num_sides == 0:
            assert full_area == mask.sum()
        elif num_sides == 1 and rest < 0.85 * diameter:
            num_cut += 1
            assert full_area == pytest.approx(math.pi / 4 * diameter**2, rel=0.1)
            assert full_area > 1.08 * mask.sum()
    assert num_cut > 10


def test_labels_name_the_drawn_outline():
    kinds = {name: [] for name in CLASSES}
    for seed in range(200):
        picture, shapes = draw_on_black(seed, count=1)
        (x, y, w, h), (height, width) = shapes[0].box, picture.shape[:2]
        if x > 0 and y > 0 and x + w < width and y + h < height and min(w, h) > 25:
            points = seen_pixels(picture, shapes[0]).astype(np.float32)
            hull = cv2.contourArea(cv2.convexHull(points))
            (_, (long, short), _) = cv2.minAreaRect(points)
            kinds[CLASSES[shapes[0].label]].append(
                (shapes[0].area / hull, shapes[0].area / (long * short))
            )
    of_hull = {name: np.mean(values, axis=0)[0] for name, values in kinds.items()}
    of_rectangle = {name: np.mean(values, axis=0)[1] for name, values in kinds.items()}
    assert min(of_hull[name] for name in ('circle', 'rectangle', 'triangle')) > 0.99
    assert of_hull['star'] < 0.6 < of_hull['cross'] < 0.9
    assert of_rectangle['rectangle'] > 0.99
    assert of_rectangle['circle'] == pytest.approx(math.pi / 4, abs=0.05)
    assert of_rectangle['triangle'] == pytest.approx(0.5, abs=0.06)


def test_sizes_vary():
    rng = np.random.default_rng(0)
    sizes = [sample_size(rng) for _ in range(200)]
    assert {np.sign(height - width) for height, width in sizes} == {-1, 0, 1}
    assert any(height % 2 and width % 2 for height, width in sizes)
    for size in sizes:
        assert LONG_SIDE[0] <= max(size) <= LONG_SIDE[1]
        assert max(size) / min(size) <= MAX_ASPECT_RATIO + 0.02


def test_pictures_are_noisy_and_depend_on_the_seed_only():
    first, shapes = draw_picture(np.random.default_rng(3), 5)
    second, same_shapes = draw_picture(np.random.default_rng(3), 5)
    other, _ = draw_picture(np.random.default_rng(4), 5)
    assert first.dtype == np.uint8 and shapes == same_shapes
    np.testing.assert_array_equal(first, second)
    assert other.shape != first.shape or (other != first).any()
    steps = np.abs(np.diff(first.astype(int), axis=1))
    assert np.median(steps) > 0, 'an image without noise has equal neighbours'


def test_no_shapes():
    picture, shapes = draw_picture(np.random.default_rng(0), 0)
    assert shapes == [] and picture.ndim == 3
