"""Pictures with boxes."""

import io

import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from PIL import Image

from mmdet_dinov2.drawing.box_pictures import draw_boxes, draw_detections, draw_small
from mmdet_dinov2.drawing.palette import class_colours
from mmdet_dinov2.instance_masks import encode_masks

CLASSES = ('cell', 'größer als alles')


def instances(boxes, labels, scores=None):
    found = InstanceData(bboxes=torch.tensor(boxes).reshape(-1, 4), labels=torch.tensor(labels))
    if scores is not None:
        found.scores = torch.tensor(scores)
    return found


@pytest.mark.parametrize('size', [(90, 160), (700, 500)])
def test_borders_have_the_colour_of_the_class(size):
    image = np.full((*size, 3), 128, np.uint8)
    box = [40.0, 50.0, 120.0, 80.0]
    picture = draw_detections(image, instances([box], [1], [0.9]), CLASSES)
    assert picture.shape == image.shape and (image == 128).all()
    colour = class_colours(2)[1][::-1]
    for x, y in ((40, 65), (120, 65), (60, 80), (100, 80)):
        assert tuple(picture[y, x]) == colour
    assert tuple(picture[65, 80]) == (128,) * 3  # inside
    assert (picture[20:49] != 128).any()  # the label
    assert (picture[84:] == 128).all()


def test_the_best_is_on_top():
    image = np.zeros((90, 160, 3), np.uint8)
    box = [40.0, 50.0, 120.0, 80.0]
    for order in ([0, 1], [1, 0]):
        scores = [0.9 if label == 0 else 0.2 for label in order]
        picture = draw_detections(image, instances([box, box], order, scores), CLASSES)
        assert tuple(picture[80, 80]) == class_colours(2)[0][::-1]


@pytest.mark.parametrize(
    'boxes',
    [[], [[0.0, 0.0, 30.0, 20.0]], [[-9.0, -9.0, 99.0, 99.0]], [[29.0, 19.0, 30.0, 20.0]],
     [[5.0, 5.0, 5.0, 5.0]]],
)  # fmt: skip
def test_boxes_at_the_border_and_none(boxes):
    image = np.zeros((20, 30, 3), np.uint8)
    labels = torch.zeros(len(boxes), dtype=torch.long).tolist()
    picture = draw_detections(image, instances(boxes, labels), CLASSES)
    assert picture.shape == (20, 30, 3) and bool(picture.any()) == bool(boxes)


def test_dashed_boxes_have_gaps_and_no_class_is_grey():
    image = np.zeros((90, 160, 3), np.uint8)
    box = np.array([[40, 50, 120, 80]])
    for dashed in (False, True):
        picture = np.asarray(draw_boxes(image, box, [-1], [''], [dashed]))
        grey = (picture == 128).all(-1)
        for line in (grey[79, 45:116], grey[60:78, 40], grey[60:78, 120]):
            assert line.any() and line.all() != dashed


def test_boxes_far_away_are_drawn_to_the_border():
    image = np.zeros((40, 60, 3), np.uint8)
    boxes = np.array([[-1e12, 20, 1e12, 1e12], [1e11, 1e11, 1e12, 1e12]])
    for dashed in ([False, False], [True, True]):
        picture = np.asarray(draw_boxes(image, boxes, [0, 0], ['', ''], dashed))
        assert (picture[20] == class_colours(1)[0]).all(-1).any()
        assert (picture[23:] == 0).all()


@pytest.mark.parametrize('size', [(30, 20), (900, 1500)])
def test_a_small_picture_has_the_same_colours(size):
    image = np.full((*size[::-1], 3), 255, np.uint8)
    names = {7: 'cell', 3: 'other'}
    boxes = [dict(bbox=[0, 0, *size], category_id=3, score=0.5)]
    picture = np.asarray(Image.open(io.BytesIO(draw_small(image, boxes, names))), dtype=int)
    assert max(picture.shape) == 480
    middle = picture.shape[1] // 2
    difference = picture[1, middle] - class_colours(2)[1]
    assert abs(difference).max() < 60  # JPEG
    white = np.asarray(Image.open(io.BytesIO(draw_small(image, [], names))))
    assert (white == 255).all()
    sea = np.zeros_like(image)
    sea[..., 0] = 255  # BGR
    picture = np.asarray(Image.open(io.BytesIO(draw_small(sea, [], names))), dtype=int)
    assert abs(picture - (0, 0, 255)).max() < 20
    broken = draw_small(image, boxes, names, dashed=[True])
    assert np.asarray(Image.open(io.BytesIO(broken))).mean() > picture.mean()


def test_dashed_lines_follow_the_given_order_of_the_boxes():
    """Although boxes are drawn in the order of their scores."""
    image = np.zeros((480, 480, 3), np.uint8)
    boxes = [
        dict(bbox=[50, 50, 200, 100], category_id=1, score=0.9),
        dict(bbox=[50, 250, 200, 100], category_id=1, score=0.2),
    ]
    for dashed in ([True, False], [False, True]):
        small = draw_small(image, boxes, {1: 'cell'}, dashed=dashed)
        picture = np.asarray(Image.open(io.BytesIO(small)), dtype=int).max(-1)
        for box, broken in zip(boxes, dashed, strict=True):
            bottom = box['bbox'][1] + 100
            line = picture[bottom - 1 : bottom + 1, 60:240].max(0)
            assert line.max() > 150 and (line.min() < 60) == broken


def ring():
    """Returns a mask of 60 x 90 pixels that has a hole."""
    mask = np.zeros((60, 90), dtype=bool)
    mask[20:50, 30:70] = True
    mask[30:40, 45:55] = False
    return mask


@pytest.mark.parametrize('form', ['array', 'tensor', 'run lengths', 'bitmap'])
def test_masks_are_drawn_as_outlines_with_a_tint(form):
    image = np.zeros((60, 90, 3), np.uint8)
    found = instances([[30.0, 20.0, 70.0, 50.0]], [0], [0.9])
    mask = ring()[None]
    found.masks = dict(
        array=lambda: mask,
        tensor=lambda: torch.from_numpy(mask),
        bitmap=lambda: BitmapMasks(mask.astype(np.uint8), 60, 90),
    ).get(form, lambda: encode_masks(mask))()
    picture = draw_detections(image, found, CLASSES)
    colour = np.array(class_colours(1)[0][::-1])
    tint = picture[25, 35].astype(int)
    assert (tint > 0).any() and (tint < colour / 2).all()
    assert (picture[40, 62] == tint).all()
    assert not picture[35, 50].any()  # in the hole
    assert (picture[35, 45] == colour).all()  # its border
    assert not picture[55:].any()


def test_masks_of_small_pictures_are_small():
    image = np.zeros((60, 90, 3), np.uint8)
    (mask,) = encode_masks(ring()[None])
    box = dict(bbox=[30, 20, 40, 30], category_id=7, score=0.5)
    plain, drawn = (
        np.asarray(Image.open(io.BytesIO(draw_small(image, [entry], {7: 'cell'}, side=180))))
        for entry in (box, dict(box, mask=mask))
    )
    assert drawn.shape == (120, 180, 3)
    assert (drawn[50, 70] > 20).any() and (plain[50, 70] < 20).all()
    assert (drawn[70, 100] < 20).all()  # in the hole


def test_masks_may_be_larger_than_the_picture():
    image = np.zeros((60, 90, 3), np.uint8)
    found = instances([[30.0, 20.0, 70.0, 50.0]], [0], [0.9])
    found.masks = encode_masks([ring()])
    expected = draw_detections(image, found, CLASSES)
    found.masks = encode_masks([ring().repeat(2, axis=0).repeat(2, axis=1)])
    assert (draw_detections(image, found, CLASSES) == expected).all()


def test_an_empty_mask_and_one_at_the_border():
    image = np.zeros((20, 30, 3), np.uint8)
    found = instances([[0.0, 0.0, 30.0, 20.0]] * 2, [0, 1], [0.9, 0.8])
    found.masks = np.stack([np.zeros((20, 30), bool), np.ones((20, 30), bool)])
    assert draw_detections(image, found, CLASSES).any()
