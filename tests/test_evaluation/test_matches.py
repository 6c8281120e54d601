"""Scores, confusions and ranked images, on a case that can be counted by hand."""

import numpy as np
import pytest

from mmdet_dinov2.data.coco_file import CocoFile
from mmdet_dinov2.evaluation.coco_evaluation import (
    BACKENDS,
    coco_table,
    count_sizes,
    evaluate_boxes,
)
from mmdet_dinov2.evaluation.image_boxes import box_iou, boxes_of_files, image_boxes
from mmdet_dinov2.evaluation.matches import best_and_worst, count_confusions, match_boxes
from mmdet_dinov2.evaluation.quality import measure_quality

NOTHING = np.zeros((0, 4))


def box(image, category, bbox, **extra):
    return dict(image_id=image, category_id=category, bbox=bbox, area=bbox[2] * bbox[3], **extra)


@pytest.fixture
def coco():
    """Two images with boxes and one without; category ids that are not 0, 1, 2."""
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
    dict(image_id=1, category_id=7, bbox=[100, 20, 50, 60], score=0.8),  # wrong class
    dict(image_id=2, category_id=3, bbox=[60, 100, 20, 20], score=0.7),  # no box there
    dict(image_id=2, category_id=7, bbox=[5, 5, 120, 100], score=0.1),  # right, with a low score
    dict(image_id=3, category_id=5, bbox=[1, 1, 9, 9], score=0.2),
]


@pytest.mark.parametrize('backend', BACKENDS)
def test_scores(coco, backend):
    images = boxes_of_files(coco, PREDICTIONS)
    evaluation = evaluate_boxes(images, 3, backend=backend)
    table = dict(coco_table(evaluation))
    a, b, c = measure_quality(images, evaluation, coco.category_names).classes
    # a: right at 0.9, wrong at 0.8, right at 0.1, so the precision is 1 up to a recall of 0.5 and
    # then 2/3; b: not found; c: no box.
    ap = (51 * 1.0 + 50 * 2 / 3) / 101
    assert [a.ap, b.ap, c.ap] == pytest.approx([ap, 0.0, None])
    assert [a.num_boxes, b.num_boxes, c.num_boxes] == [2, 1, 0]
    assert table['AP, IoU 0.50:0.95'] == pytest.approx(ap / 2)
    assert [table['AP, large'], table['AR, small']] == pytest.approx([1, 1])
    assert table['AR, medium'] == 0 and table['AR, 1 detection'] == pytest.approx(0.5)
    assert len(table) == 12
    assert count_sizes(images).tolist() == [1, 1, 1]
    curves = evaluation.curves()
    assert curves[0][[0, 50, 51, 100]] == pytest.approx([1, 1, 2 / 3, 2 / 3])
    assert (curves[2] == -1).all()


def test_the_table_is_the_summary_of_pycocotools(coco):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = COCO(), COCO()
    predictions = [
        dict(p, id=i, iscrowd=0, area=p['bbox'][2] * p['bbox'][3])
        for i, p in enumerate(PREDICTIONS, 1)
    ]
    for side, annotations in ((truth, coco.annotations), (found, predictions)):
        side.dataset = dict(images=coco.images, categories=coco.categories, annotations=annotations)
        side.createIndex()
    theirs = COCOeval(truth, found, 'bbox')
    theirs.evaluate()
    theirs.accumulate()
    theirs.summarize()
    ours = coco_table(evaluate_boxes(boxes_of_files(coco, PREDICTIONS), 3))
    assert [value for _, value in ours] == pytest.approx(theirs.stats.tolist())


def test_areas_may_be_missing(coco):
    images = boxes_of_files(coco, PREDICTIONS)
    for annotation in coco.annotations:
        del annotation['area']
    assert count_sizes(boxes_of_files(coco, [])).tolist() == count_sizes(images).tolist()


@pytest.mark.parametrize('backend', BACKENDS)
def test_no_predictions(coco, backend):
    evaluation = evaluate_boxes(boxes_of_files(coco, []), 3, backend=backend)
    assert dict(coco_table(evaluation))['AP, IoU 0.50:0.95'] == 0
    empty = CocoFile('x.json', coco.images, coco.categories, [])
    for images in (boxes_of_files(empty, PREDICTIONS), []):
        table = coco_table(evaluate_boxes(images, 3, backend=backend))
        assert all(value == -1 for _, value in table)


def test_confusions(coco):
    confusions = count_confusions(boxes_of_files(coco, PREDICTIONS), 3)
    expected = np.zeros((4, 4), dtype=int)
    expected[0, 0] = 1  # a found
    expected[1, 0] = 1  # b found as a
    expected[0, 3] = 1  # a of image 2, whose score is too low
    # b on a crowd region does not count
    assert confusions.matrix.tolist() == expected.tolist()
    assert confusions.shares[0].tolist() == [0.5, 0, 0, 0.5]
    assert confusions.most_frequent(5) == [(1, 0, 3), (1, 1, 0)]
    assert confusions.most_frequent(1) == [(1, 0, 3)]


def square(x, side=10):
    return [x, 0, side, side]


def one_image(boxes, scores, labels, true_boxes, true_labels, crowd_boxes=()):
    annotations = [dict(bbox=box) for box in true_boxes]
    annotations += [dict(bbox=box, iscrowd=1) for box in crowd_boxes]
    true_labels = [*true_labels, *[0] * len(crowd_boxes)]
    return image_boxes(annotations, true_labels, boxes, scores, labels)


def test_confusions_of_one_image():
    image = one_image(
        # Right; wrong class; no box there; found twice; score too low; on a crowd.
        [square(0), square(20), square(40), square(1), square(60), square(85)],
        [0.9, 0.8, 0.7, 0.6, 0.4, 0.9],
        [0, 1, 1, 0, 0, 0],
        [square(0), square(20), square(60)],
        [0, 0, 1],
        [square(80, side=30)],
    )
    assert count_confusions([image], 2, 0.5).matrix.tolist() == [[1, 1, 0], [0, 0, 1], [1, 1, 0]]
    match = match_boxes(image, 0.5)
    assert (match.detections, match.missed, match.surplus) == ([0, 5, 1, 2, 3], [2], [2, 3])
    assert (match.num_boxes, match.correct, match.repeated) == (3, [(0, 0)], [3])
    assert match.f1 == pytest.approx(2 / 7)  # the one on the crowd is not a mistake


def test_equal_classes_are_matched_first():
    """Although the detection of the wrong class has a higher score and overlaps more."""
    image = one_image([square(0), square(1)], [0.9, 0.6], [1, 0], [square(0)], [0])
    match = match_boxes(image)
    assert match.pairs == match.correct == [(0, 1)]
    assert (match.surplus, match.repeated) == ([0], [])  # its class is not that of the box
    assert match.f1 == pytest.approx(2 / 3)
    assert count_confusions([image], 2).matrix.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize('count', [0, 2])
def test_images_without_boxes_or_detections(count):
    boxes, labels = [square(30 * i) for i in range(count)], [0] * count
    images = [
        one_image(boxes, [1.0] * count, labels, [], []),
        one_image([], [], [], boxes, labels),
    ]
    assert count_confusions(images, 1).matrix.tolist() == [[0, count], [count, 0]]


def test_best_and_worst_images(coco):
    matches = [match_boxes(image) for image in boxes_of_files(coco, PREDICTIONS)]
    assert [m.f1 for m in matches] == pytest.approx([0.5, 0.0, 1.0])
    assert best_and_worst(matches) == ([2, 0], [1])
    assert best_and_worst([]) == ([], [])


def test_overlap():
    first = np.array([square(0), square(100), [5, 5, 0, 4]], dtype=float)
    second = np.array([square(5), square(0, side=20)], dtype=float)
    assert box_iou(first, second) == pytest.approx(np.array([[1 / 3, 1 / 4], [0, 0], [0, 0]]))
    assert box_iou(first, second, over_first=True)[0] == pytest.approx([0.5, 1])
    assert box_iou(NOTHING, second).shape == (0, 2)
