"""COCO's evaluation against pycocotools, bit for bit."""

import dataclasses

import numpy as np
import pytest

from mmdet_dinov2.evaluation.coco_evaluation import (
    COCO_MAX_DETECTIONS,
    IOU_THRESHOLDS,
    evaluate_boxes,
)
from mmdet_dinov2.evaluation.evaluated_boxes import FoundBoxes
from mmdet_dinov2.instance_masks import decode_mask

from ..reference.coco_evaluation import run_pycocotools
from .boxes import random_boxes, rows_of, with_masks


def assert_equal_arrays(boxes, num_classes, iou_thrs, max_detections):
    ours = evaluate_boxes(boxes, num_classes, iou_thrs, max_detections)
    theirs = run_pycocotools(boxes, num_classes, iou_thrs, max_detections)
    assert ours.recalls.tolist() == theirs.params.recThrs.tolist()
    for name in ('precision', 'scores', 'recall'):
        assert np.array_equal(getattr(ours, name), theirs.eval[name]), name
    return ours


@pytest.mark.parametrize('seed', range(4))
def test_precision_scores_and_recall_are_those_of_pycocotools(seed):
    ours = assert_equal_arrays(random_boxes(seed), 4, IOU_THRESHOLDS, COCO_MAX_DETECTIONS)
    assert 0.1 < ours.average_precision() < 0.9
    assert all(ours.average_precision(area=area) > 0 for area in range(4))


@pytest.mark.parametrize(
    ('iou_thrs', 'max_detections'),
    [(IOU_THRESHOLDS, (100, 300, 1000)), ((0.5,), (1, 3)), ((0.3, 0.62, 1.0), (7,))],
)
def test_other_thresholds_and_numbers_of_detections(iou_thrs, max_detections):
    boxes = random_boxes(5, num_images=5, max_found=1800)
    assert np.bincount(boxes.found.images).max() > 1000
    assert_equal_arrays(boxes, 4, iou_thrs, max_detections)


def test_one_class_without_boxes_and_one_without_detections():
    boxes = random_boxes(6)
    true, found = boxes.true, boxes.found
    kept, shown = true.labels != 1, found.labels != 2
    boxes = dataclasses.replace(boxes, true=rows_of(true, kept), found=rows_of(found, shown))
    ours = assert_equal_arrays(boxes, 5, IOU_THRESHOLDS, COCO_MAX_DETECTIONS)
    precisions = [ours.average_precision(label=label) for label in range(5)]
    assert precisions[1] == precisions[4] == -1 and precisions[2] == 0


@pytest.mark.parametrize('seed', range(3))
def test_masks_are_scored_as_pycocotools_does(seed):
    boxes = with_masks(random_boxes(seed, num_images=12), seed)
    assert not boxes.true.known.all()
    ours = evaluate_boxes(boxes, 4, by_masks=True)
    # An object whose mask is not known counts as a crowd region.
    theirs = run_pycocotools(
        boxes.for_masks(), 4, IOU_THRESHOLDS, COCO_MAX_DETECTIONS, by_masks=True
    )
    for name in ('precision', 'scores', 'recall'):
        np.testing.assert_allclose(getattr(ours, name), theirs.eval[name], rtol=0, atol=1e-9)
    assert 0.05 < ours.average_precision() < 0.9
    assert ours.average_precision() != evaluate_boxes(boxes, 4).average_precision()
    assert all(ours.average_precision(area=area) > 0 for area in range(4))


def test_the_truth_as_prediction():
    boxes = with_masks(random_boxes(3, num_images=6), 3)
    true = boxes.true
    seen = [i for i, mask in enumerate(true.masks) if decode_mask(mask).any() and not true.crowd[i]]
    true = rows_of(true, np.array(seen))
    found = FoundBoxes(true.images, true.boxes, true.labels, np.ones(len(seen)), true.masks)
    boxes = dataclasses.replace(boxes, true=true, found=found)
    assert evaluate_boxes(boxes, 4, by_masks=True).average_precision() == 1
