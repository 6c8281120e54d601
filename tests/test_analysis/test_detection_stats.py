"""Scores, confusions and images on a case that can be counted by hand."""

import numpy as np
import pytest

from mmdet_dinov2.analysis import detection_stats as stats
from mmdet_dinov2.data.coco_file import CocoFile


def box(image, category, bbox, **extra):
    return dict(image_id=image, category_id=category, bbox=bbox, area=bbox[2] * bbox[3], **extra)


@pytest.fixture
def coco():
    """Two images with boxes, one without; category ids are not 0, 1, 2."""
    images = [dict(id=i, file_name=f'{i}.jpg', width=200, height=150) for i in (1, 2, 3)]
    annotations = [
        box(1, 7, [10, 10, 20, 20], id=1, iscrowd=0),
        box(1, 3, [100, 20, 50, 60], id=2, iscrowd=0),
        box(2, 7, [5, 5, 120, 100], id=3, iscrowd=0),
        box(2, 3, [0, 0, 200, 150], id=4, iscrowd=1),
    ]
    categories = [dict(id=7, name='a'), dict(id=3, name='b'), dict(id=5, name='c')]
    return CocoFile('x.json', images, categories, annotations)


PREDICTIONS = [
    dict(image_id=1, category_id=7, bbox=[10, 10, 20, 20], score=0.9),  # right
    dict(image_id=1, category_id=7, bbox=[100, 20, 50, 60], score=0.8),  # other class
    dict(image_id=2, category_id=3, bbox=[60, 100, 20, 20], score=0.7),  # nothing there
    dict(image_id=2, category_id=7, bbox=[5, 5, 120, 100], score=0.1),  # right, but unsure
    dict(image_id=3, category_id=5, bbox=[1, 1, 9, 9], score=0.2),
]


def test_coco_scores(coco):
    scores = stats.coco_scores(coco, PREDICTIONS)
    table = dict(scores.table)
    # a: found at 0.9, missed at 0.8 (a false one), found at 0.1: precision 1 up to a recall of 0.5,
    # then 2/3; b: not found; c: no box
    ap = (51 * 1.0 + 50 * 2 / 3) / 101 * 100
    assert scores.class_ap[:2] == pytest.approx([ap, 0.0])
    assert np.isnan(scores.class_ap[2])
    assert table['AP, IoU 0.50:0.95'] == pytest.approx(ap / 2)
    assert scores.class_boxes.tolist() == [2, 1, 0]
    assert scores.size_boxes.tolist() == [1, 1, 1]
    assert scores.precision[[0, 50, 51, 100]] == pytest.approx([0.5, 0.5, 1 / 3, 1 / 3])
    assert table['AP, large'] == pytest.approx(100.0)


def test_no_predictions(coco):
    scores = stats.coco_scores(coco, [])
    assert dict(scores.table)['AP, IoU 0.50:0.95'] == 0
    empty = CocoFile('x.json', coco.images, coco.categories, [])
    assert all(np.isnan(value) for _, value in stats.coco_scores(empty, PREDICTIONS).table)


def test_confusion_matrix(coco):
    matches = stats.match_images(coco, PREDICTIONS)
    matrix = stats.confusion_matrix(matches, [7, 3, 5])
    expected = np.zeros((4, 4), dtype=int)
    expected[0, 0] = 1  # a found
    expected[1, 0] = 1  # b found as a
    expected[0, 3] = 1  # a of image 2 not found at this score
    expected[3, 1] = 1  # b where there is only a crowd region
    assert matrix.tolist() == expected.tolist()


def test_equal_classes_are_matched_first():
    """Although the other class overlaps more."""
    coco = CocoFile(
        'x.json',
        [dict(id=1, file_name='1.jpg', width=50, height=50)],
        [dict(id=1, name='a'), dict(id=2, name='b')],
        [box(1, 1, [0, 0, 20, 20], id=1)],
    )
    found = [
        dict(image_id=1, category_id=2, bbox=[0, 0, 20, 20], score=0.9),
        dict(image_id=1, category_id=1, bbox=[0, 0, 20, 18], score=0.5),
    ]
    (match,) = stats.match_images(coco, found)
    assert match.pairs == [(0, 1)] and match.num_correct == 1
    assert match.f1 == pytest.approx(2 / 3)


def test_best_and_worst_images(coco):
    matches = stats.match_images(coco, PREDICTIONS)
    assert [m.f1 for m in matches] == pytest.approx([0.5, 0.0, 1.0])
    best, worst = stats.best_and_worst(matches)
    assert [m.image['id'] for m in best] == [3, 1]
    assert [m.image['id'] for m in worst] == [2]
    assert stats.best_and_worst([]) == ([], [])


def test_box_iou():
    first = np.array([[0, 0, 10, 10], [5, 5, 0, 0]])
    second = np.array([[5, 0, 10, 10], [50, 50, 1, 1]])
    assert stats.box_iou(first, second) == pytest.approx(np.array([[1 / 3, 0], [0, 0]]))
    assert stats.box_iou(np.empty((0, 4)), second).shape == (0, 2)
