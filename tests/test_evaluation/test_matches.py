"""Scores, confusions, ranked images: on a case that can be counted by hand and on random ones."""

import numpy as np
import pytest

from mmdet_dinov2.evaluation import matches as matches_module
from mmdet_dinov2.evaluation.coco_evaluation import coco_table, count_sizes, evaluate_boxes
from mmdet_dinov2.evaluation.evaluated_boxes import EvaluatedBoxes, boxes_of_files, found_boxes
from mmdet_dinov2.evaluation.evaluated_boxes import true_boxes as make_true_boxes
from mmdet_dinov2.evaluation.matches import best_and_worst, count_confusions, match_boxes
from mmdet_dinov2.evaluation.quality import measure_quality
from mmdet_dinov2.instance_masks import decode_mask

from ..columns import columns_of_entries
from ..reference.box_matching import match_image
from ..reference.coco_evaluation import run_pycocotools
from .boxes import random_boxes, rows_of, with_masks


def box(image, category, bbox, **extra):
    return dict(image_id=image, category_id=category, bbox=bbox, area=bbox[2] * bbox[3], **extra)


IMAGES = [dict(id=i, file_name=f'{i}.jpg', width=200, height=150) for i in (1, 2, 3)]
CATEGORIES = [dict(id=7, name='a'), dict(id=3, name='b'), dict(id=5, name='c')]


def annotations():
    """Two images with boxes and one without; category ids that are not 0, 1, 2."""
    return [
        box(1, 7, [10, 10, 20, 20], id=1, iscrowd=0),
        box(1, 3, [100, 20, 50, 60], id=2, iscrowd=0),
        box(2, 7, [5, 5, 120, 100], id=3, iscrowd=0),
        box(2, 3, [0, 0, 200, 150], id=4, iscrowd=1),
    ]


PREDICTIONS = [
    dict(image_id=1, category_id=7, bbox=[10, 10, 20, 20], score=0.9),  # right
    dict(image_id=1, category_id=7, bbox=[100, 20, 50, 60], score=0.8),  # wrong class
    dict(image_id=2, category_id=3, bbox=[60, 100, 20, 20], score=0.7),  # no box there
    dict(image_id=2, category_id=7, bbox=[5, 5, 120, 100], score=0.1),  # right, with a low score
    dict(image_id=3, category_id=5, bbox=[1, 1, 9, 9], score=0.2),
]


def boxes_of(entries, predictions):
    return boxes_of_files(columns_of_entries('x.json', IMAGES, CATEGORIES, entries), predictions)


def test_scores():
    boxes = boxes_of(annotations(), PREDICTIONS)
    evaluation = evaluate_boxes(boxes, 3)
    table = dict(coco_table(evaluation))
    a, b, c = measure_quality(boxes, evaluation, ['a', 'b', 'c']).classes
    # a: right at 0.9, wrong at 0.8, right at 0.1, so the precision is 1 up to a recall of 0.5 and
    # then 2/3; b: not found; c: no box.
    ap = (51 * 1.0 + 50 * 2 / 3) / 101
    assert [a.ap, b.ap, c.ap] == pytest.approx([ap, 0.0, None])
    assert [a.num_boxes, b.num_boxes, c.num_boxes] == [2, 1, 0]
    assert table['AP, IoU 0.50:0.95'] == pytest.approx(ap / 2)
    assert [table['AP, large'], table['AR, small']] == pytest.approx([1, 1])
    assert table['AR, medium'] == 0 and table['AR, 1 detection'] == pytest.approx(0.5)
    assert len(table) == 12
    assert count_sizes(boxes).tolist() == [1, 1, 1]
    curves = evaluation.curves()
    assert curves[0][[0, 50, 51, 100]] == pytest.approx([1, 1, 2 / 3, 2 / 3])
    assert (curves[2] == -1).all()


def test_the_table_is_the_summary_of_pycocotools(capsys):
    boxes = boxes_of(annotations(), PREDICTIONS)
    evaluation = evaluate_boxes(boxes, 3)
    theirs = run_pycocotools(boxes, 3, evaluation.iou_thrs, (1, 10, 100))
    theirs.summarize()
    table = coco_table(evaluation)
    assert [value for _, value in table] == pytest.approx(theirs.stats.tolist(), abs=1e-12)


def test_areas_may_be_missing():
    expected = count_sizes(boxes_of(annotations(), []))
    entries = annotations()
    for entry in entries:
        del entry['area']
    assert count_sizes(boxes_of(entries, [])).tolist() == expected.tolist()


def test_no_predictions():
    evaluation = evaluate_boxes(boxes_of(annotations(), []), 3)
    assert dict(coco_table(evaluation))['AP, IoU 0.50:0.95'] == 0
    nothing = EvaluatedBoxes(0, make_true_boxes([], [], [], []), found_boxes([], [], [], []))
    for boxes in (boxes_of([], PREDICTIONS), nothing):
        assert all(value == -1 for _, value in coco_table(evaluate_boxes(boxes, 3)))


def test_confusions():
    confusions = count_confusions(match_boxes(boxes_of(annotations(), PREDICTIONS)), 3)
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
    """Returns the boxes of one image; crowd regions are of class 0."""
    crowd = [0] * len(true_boxes) + [1] * len(crowd_boxes)
    true_labels = [*true_labels, *[0] * len(crowd_boxes)]
    return EvaluatedBoxes(
        1,
        make_true_boxes([0] * len(crowd), [*true_boxes, *crowd_boxes], true_labels, crowd),
        found_boxes([0] * len(boxes), boxes, labels, scores),
    )


def test_confusions_of_one_image():
    matches = match_boxes(
        one_image(
            # Right; wrong class; no box there; found twice; score too low; on a crowd.
            [square(0), square(20), square(40), square(1), square(60), square(85)],
            [0.9, 0.8, 0.7, 0.6, 0.4, 0.9],
            [0, 1, 1, 0, 0, 0],
            [square(0), square(20), square(60)],
            [0, 0, 1],
            [square(80, side=30)],
        ),
        0.5,
    )
    assert count_confusions(matches, 2).matrix.tolist() == [[1, 1, 0], [0, 0, 1], [1, 1, 0]]
    match = matches.of_image(0)
    assert (match.detections, match.missed, match.surplus) == ([0, 5, 1, 2, 3], [2], [2, 3])
    assert (match.num_boxes, match.correct, match.repeated) == (3, [(0, 0)], [3])
    assert matches.f1().tolist() == pytest.approx([2 / 7])  # the one on the crowd is no mistake


def test_equal_classes_are_matched_first():
    """Although the detection of the wrong class has a higher score and overlaps more."""
    matches = match_boxes(one_image([square(0), square(1)], [0.9, 0.6], [1, 0], [square(0)], [0]))
    match = matches.of_image(0)
    assert match.pairs == match.correct == [(0, 1)]
    assert (match.surplus, match.repeated) == ([0], [])  # its class is not that of the box
    assert matches.f1().tolist() == pytest.approx([2 / 3])
    assert count_confusions(matches, 2).matrix.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize('count', [0, 2])
def test_images_without_boxes_or_detections(count):
    boxes, labels = [square(30 * i) for i in range(count)], [0] * count
    for image, expected in (
        (one_image(boxes, [1.0] * count, labels, [], []), [[0, 0], [count, 0]]),
        (one_image([], [], [], boxes, labels), [[0, count], [0, 0]]),
    ):
        matches = match_boxes(image)
        assert count_confusions(matches, 1).matrix.tolist() == expected
        assert matches.f1().tolist() == [0.0 if count else 1.0]


def test_best_and_worst_images():
    matches = match_boxes(boxes_of(annotations(), PREDICTIONS))
    assert matches.f1().tolist() == pytest.approx([0.5, 0.0, 1.0])
    assert matches.counts().tolist() == [4, 2, 0]
    assert best_and_worst(matches) == ([2, 0], [1])
    nothing = EvaluatedBoxes(0, make_true_boxes([], [], [], []), found_boxes([], [], [], []))
    assert best_and_worst(match_boxes(nothing)) == ([], [])


@pytest.mark.parametrize('max_pairs', [2**19, 30])
@pytest.mark.parametrize('seed', range(3))
def test_matches_are_those_of_a_slow_obvious_search(monkeypatch, seed, max_pairs):
    monkeypatch.setattr(matches_module, '_MAX_PAIRS', max_pairs)
    boxes = random_boxes(seed, num_images=12)
    # In an order that mixes images.
    order = np.random.default_rng(seed).permutation(len(boxes.found.labels))
    found = rows_of(boxes.found, order)
    boxes = EvaluatedBoxes(boxes.num_images, boxes.true, found)
    matches = match_boxes(boxes, score_thr=0.3)
    num_correct = 0
    for image in range(boxes.num_images):
        true, shown = boxes.true.images == image, found.images == image
        expected = match_image(
            boxes.true.boxes[true],
            boxes.true.labels[true],
            boxes.true.crowd[true],
            found.boxes[shown],
            found.labels[shown],
            found.scores[shown],
            0.3,
            0.5,
        )
        match = matches.of_image(image)
        assert {name: getattr(match, name) for name in expected} == expected
        num_correct += len(match.correct)
    assert num_correct > 20


def test_right_matches_are_those_of_coco():
    boxes = random_boxes(3)
    theirs = run_pycocotools(boxes, 4, [0.5], [1000])
    pairs = {
        (int(detection) - 1, int(truth) - 1)
        for result in theirs.evalImgs
        if result and result['aRng'] == theirs.params.areaRng[0]
        for detection, truth in zip(result['dtIds'], result['dtMatches'][0])
        if truth and not boxes.true.crowd[int(truth) - 1]
    }
    matches = match_boxes(boxes, score_thr=0)
    correct = matches.correct
    found = zip(matches.detections[correct].tolist(), matches.box_of[correct].tolist())
    assert set(found) == pairs and len(pairs) > 30


@pytest.mark.parametrize('seed', range(2))
def test_masks_are_matched_by_a_slow_obvious_search(seed):
    boxes = with_masks(random_boxes(seed, num_images=6, max_found=15), seed)
    matches = match_boxes(boxes, score_thr=0.25, by_masks=True)
    crowd = boxes.true.crowd | ~boxes.true.known
    found, true = ([decode_mask(mask) for mask in side.masks] for side in (boxes.found, boxes.true))
    for place, detection in enumerate(matches.detections.tolist()):
        overlaps = {}
        for index in np.flatnonzero(boxes.true.images == boxes.found.images[detection]).tolist():
            shared = (found[detection] & true[index]).sum()
            whole = found[detection] if crowd[index] else found[detection] | true[index]
            overlaps[index] = shared / max(whole.sum(), 1)
        near = [index for index, overlap in overlaps.items() if overlap >= 0.5]
        assert matches.on_crowd[place] == any(crowd[index] for index in near)
        if matches.box_of[place] >= 0:
            assert matches.box_of[place] in near and not crowd[matches.box_of[place]]
        else:  # every object that it overlaps is taken
            assert {index for index in near if not crowd[index]} <= set(matches.box_of.tolist())
    assert matches.matched.sum() > 5 and matches.surplus.sum() > 5
    by_boxes = match_boxes(boxes, score_thr=0.25)
    assert by_boxes.matched.sum() != matches.matched.sum()
