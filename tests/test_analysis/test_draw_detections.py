"""Pictures with boxes."""

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from mmdet_dinov2.analysis.draw_detections import draw_detections
from mmdet_dinov2.data.palette import class_colours

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
