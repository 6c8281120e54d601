"""Results per class, on detections that can be counted by hand."""

import numpy as np
import pytest

from mmdet_dinov2.evaluation.coco_evaluation import CocoEvaluation
from mmdet_dinov2.evaluation.evaluated_boxes import EvaluatedBoxes, found_boxes, true_boxes
from mmdet_dinov2.evaluation.plots import class_table, confusion_table, write_quality
from mmdet_dinov2.evaluation.quality import ClassQuality, measure_quality


def made_up_quality(num_classes=3):
    """Returns results in which class 0 is always found, class 1 never, and others have no box."""
    iou_thrs = np.array([0.5, 0.75])
    recalls = np.linspace(0, 1, 5)
    precision = np.full((2, 5, num_classes, 4, 3), -1.0)
    precision[:, :, 0] = np.array([1, 1, 1, 0.5, 0])[None, :, None, None]
    precision[1, :, 0] = 0.0
    precision[:, :, 1] = 0
    scores = np.zeros_like(precision)
    scores[:, :, 0] = np.array([0.9, 0.8, 0.7, 0.2, 0])[None, :, None, None]
    names = [f'class {label}' for label in range(num_classes)]
    evaluation = CocoEvaluation(precision, scores, precision[:, -1], recalls, iou_thrs)
    true = true_boxes([0, 0, 0, 1, 1, 1], [[0, 0, 9, 9]] * 6, [0, 0, 1] * 2, [0] * 6)
    boxes = EvaluatedBoxes(2, true, found_boxes([], [], [], []))
    return measure_quality(boxes, evaluation, names)


def test_results_of_classes():
    first, second, third = made_up_quality().classes
    assert (first.ap, first.ap_50, first.ap_75) == pytest.approx((0.35, 0.7, 0.0))
    # F1 of the recalls 0.5 and 0.75: 2 / 3 and 0.6.
    assert (first.best_score, first.precision, first.recall) == (0.7, 1.0, 0.5)
    assert (second.ap, second.best_score, second.recall) == (0.0, None, 0.0)
    assert third == ClassQuality('class 2', 0, *[None] * 9)
    assert (first.num_boxes, second.num_boxes) == (4, 2)


def test_tables():
    header, rows = class_table(made_up_quality().classes)
    assert header[:4] == ['category', 'boxes', 'mAP', 'mAP_50']
    assert rows[0][:4] == ['class 0', '4', '0.350', '0.700']
    assert rows[2] == ['class 2', '0'] + ['-'] * 9
    header, rows = confusion_table(made_up_quality().confusions, ['a', 'b', 'c'])
    assert header == ['true \\ detected', 'a', 'b', 'c', 'background']
    assert rows[0] == ['a', '0', '0', '0', '4'] and len(rows) == 4


@pytest.mark.parametrize('num_classes', [2, 60])
def test_everything_is_written(tmp_path, num_classes):
    files = write_quality(made_up_quality(num_classes), tmp_path / 'new' / 'folder')
    assert [file.suffix for file in files] == ['.json', '.png', '.png', '.png']
    assert all(file.stat().st_size > 500 for file in files)
