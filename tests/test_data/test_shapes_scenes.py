"""Large drawn images: their boxes are exact, their shapes visible, and their numbers as asked."""

import json

import cv2
import numpy as np
import pytest

from mmdet_dinov2.data.shapes import generate_shapes
from mmdet_dinov2.data.shapes_drawing import MIN_VISIBLE_SHARE
from mmdet_dinov2.data.shapes_scenes import Scene, draw_scene
from mmdet_dinov2.errors import InputError

SCENE = dict(width=230, height=170, num_shapes=25)


def test_shapes_are_where_their_boxes_say(monkeypatch):
    monkeypatch.setattr('mmdet_dinov2.data.shapes_scenes.add_noise', lambda rng, picture: picture)
    monkeypatch.setattr(
        'mmdet_dinov2.data.shapes_scenes.paint_background',
        lambda rng, height, width: np.zeros((height, width, 3), np.uint8),
    )
    picture, shapes = draw_scene(np.random.default_rng(1), Scene.of(SCENE))
    assert picture.shape == (170, 230, 3) and len(shapes) == 25
    sides = [max(shape.box[2:]) for shape in shapes]
    assert 10 <= min(sides) < 16 < 30 < max(sides) <= 40
    for shape in shapes:
        x, y, width, height = shape.box
        assert x >= 0 and y >= 0 and x + width <= 230 and y + height <= 170
        own = (picture[y : y + height, x : x + width] == shape.color).all(-1).sum()
        assert MIN_VISIBLE_SHARE * shape.area <= own <= shape.area <= width * height
    drawn = (picture > 0).any(-1)
    inside = np.zeros_like(drawn)
    for x, y, width, height in (shape.box for shape in shapes):
        inside[y : y + height, x : x + width] = True
        for edge in (drawn[y, x : x + width], drawn[y + height - 1, x : x + width],
                     drawn[y : y + height, x], drawn[y : y + height, x + width - 1]):  # fmt: skip
            assert edge.any()
    assert not (drawn & ~inside).any()


def test_scenes_are_a_dataset_of_their_own(tmp_path):
    root = generate_shapes(tmp_path / 'a', 1, 13, seed=2, scene=SCENE)
    other = generate_shapes(tmp_path / 'b', 1, 1, seed=2, scene=SCENE)
    content = json.loads((root / 'annotations/val.json').read_text())
    counts = np.bincount([a['image_id'] for a in content['annotations']], minlength=14)
    assert (counts[1:13] > 20).all() and counts[13] == 0
    for name in ('train/000001.jpg', 'val/000001.jpg'):
        assert (root / name).read_bytes() == (other / name).read_bytes()
    assert cv2.imread(str(root / 'val/000001.jpg')).shape == (170, 230, 3)
    assert generate_shapes(root, 1, 13, seed=2, scene=SCENE) == root
    with pytest.raises(InputError, match=r"scene={'width': 230.* is requested"):
        generate_shapes(root, 1, 13, seed=2, scene={**SCENE, 'num_shapes': 26})
    with pytest.raises(InputError, match='num_val=13, seed=2 is requested'):
        generate_shapes(root, 1, 13, seed=2)


@pytest.mark.parametrize(
    ('scene', 'message'),
    [
        (dict(size=3), r"scene has the unknown keys \['size'\]; it takes width, height"),
        (dict(width=0), 'scene.width must be a whole number of at least 1, but is 0'),
        (dict(num_shapes=2.5), 'scene.num_shapes must be a whole number'),
        (dict(width=40), 'scene needs 4 <= smallest <= largest < width and height'),
    ],
)
def test_settings_are_checked(tmp_path, scene, message):
    with pytest.raises(InputError, match=message):
        generate_shapes(tmp_path / 'a', 1, 1, scene=scene)
