"""Results of classes on detections that can be counted by hand."""

import numpy as np
import pytest

from mmdet_dinov2.analysis.detection_plots import class_table, confusion_table, write_quality
from mmdet_dinov2.analysis.detection_quality import (
    ClassQuality,
    ConfusionCounter,
    DetectionQuality,
    box_iou,
    class_qualities,
    mean_of_valid,
)

NOTHING = np.zeros((0, 4))


def square(x, y=0, side=10):
    return [x, y, x + side, y + side]


def test_overlap():
    first = np.array([square(0), square(100), [5, 5, 5, 9]], dtype=float)
    second = np.array([square(5), square(0, side=20)], dtype=float)
    assert box_iou(first, second) == pytest.approx(np.array([[1 / 3, 1 / 4], [0, 0], [0, 0]]))
    assert box_iou(first, second, over_first=True)[0] == pytest.approx([0.5, 1])
    assert box_iou(NOTHING, second).shape == (0, 2)


def test_confusions():
    counter = ConfusionCounter(num_classes=2, score_thr=0.5, iou_thr=0.5)
    counter.add(
        # Right; wrong class; where nothing is; twice the same; not sure enough; on a crowd.
        boxes=np.array(
            [square(0), square(20), square(40), square(1), square(60), square(85)], float
        ),
        scores=np.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.9]),
        labels=np.array([0, 1, 1, 0, 0, 0]),
        true_boxes=np.array([square(0), square(20), square(60)], float),
        true_labels=np.array([0, 0, 1]),
        crowd_boxes=np.array([square(80, side=30)], float),
    )
    expected = [[1, 1, 0], [0, 0, 1], [1, 1, 0]]
    assert counter.result().matrix.tolist() == expected
    # A detection of the right class is not taken away by a surer one of another class.
    counter.add(
        boxes=np.array([square(0), square(1)], float),
        scores=np.array([0.9, 0.6]),
        labels=np.array([1, 0]),
        true_boxes=np.array([square(0)], float),
        true_labels=np.array([0]),
        crowd_boxes=NOTHING,
    )
    assert counter.result().matrix.tolist() == [[2, 1, 0], [0, 0, 1], [1, 2, 0]]


@pytest.mark.parametrize('count', [0, 2])
def test_images_without_boxes_or_detections(count):
    counter = ConfusionCounter(num_classes=1)
    boxes = np.array([square(30 * i) for i in range(count)], float).reshape(-1, 4)
    labels = np.zeros(count, int)
    counter.add(boxes, np.ones(count), labels, NOTHING, np.zeros(0, int), NOTHING)
    counter.add(NOTHING, np.zeros(0), np.zeros(0, int), boxes, labels, NOTHING)
    assert counter.result().matrix.tolist() == [[0, count], [count, 0]]


def made_up_quality(num_classes=3):
    """The first class is found without mistakes, the second never, the others have no box."""
    iou_thrs = np.array([0.5, 0.75])
    recalls = np.linspace(0, 1, 5)
    precision = np.full((2, 5, num_classes, 4, 3), -1.0)
    precision[:, :, 0] = np.array([1, 1, 1, 0.5, 0])[None, :, None, None]
    precision[1, :, 0] = 0.0
    precision[:, :, 1] = 0
    scores = np.zeros_like(precision)
    scores[:, :, 0] = np.array([0.9, 0.8, 0.7, 0.2, 0])[None, :, None, None]
    names = [f'class {label}' for label in range(num_classes)]
    boxes = [4, 2] + [0] * (num_classes - 2)
    classes, curves = class_qualities(precision, scores, iou_thrs, recalls, names, boxes)
    return DetectionQuality(
        classes, recalls, curves, ConfusionCounter(num_classes).result(), num_images=6
    )


def test_results_of_classes():
    first, second, third = made_up_quality().classes
    assert (first.ap, first.ap_50, first.ap_75) == pytest.approx((0.35, 0.7, 0.0))
    # F1 of the recalls 0.5 and 0.75: 2 / 3 and 0.6.
    assert (first.best_score, first.precision, first.recall) == (0.7, 1.0, 0.5)
    assert (second.ap, second.best_score, second.recall) == (0.0, None, 0.0)
    assert third == ClassQuality('class 2', 0, *[None] * 9)
    assert mean_of_valid(np.array([-1.0, -1.0])) == -1


def test_tables():
    header, *rows = class_table(made_up_quality().classes)
    assert header[:4] == ['category', 'boxes', 'mAP', 'mAP_50']
    assert rows[0][:4] == ['class 0', '4', '0.350', '0.700']
    assert rows[2] == ['class 2', '0'] + ['-'] * 9
    table = confusion_table(made_up_quality().confusions, ['a', 'b', 'c'])
    assert table[0] == ['true \\ detected', 'a', 'b', 'c', 'background'] and len(table) == 5


@pytest.mark.parametrize('num_classes', [2, 60])
def test_everything_is_written(tmp_path, num_classes):
    files = write_quality(made_up_quality(num_classes), tmp_path / 'new' / 'folder')
    assert [file.suffix for file in files] == ['.json', '.png', '.png', '.png']
    assert all(file.stat().st_size > 500 for file in files)
