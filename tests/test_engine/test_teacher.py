"""What a teacher is sure of: thresholds that follow the labels, signs of a collapse, agreement."""

import numpy as np
import pytest
import torch

from mmdet_dinov2.engine.teacher.quality import PseudoQuality, count_agreement
from mmdet_dinov2.engine.teacher.thresholds import FLOOR, ClassThresholds, TeacherBoxes
from mmdet_dinov2.errors import InputError

CLASSES = ('cat', 'dog')


def found(scores, labels, seed=0):
    """Returns detections of boxes that do not overlap."""
    boxes = torch.arange(len(scores))[:, None] * 20 + torch.tensor([0.0, 0.0, 10.0, 10.0])
    return TeacherBoxes.of(boxes, torch.tensor(scores), torch.tensor(labels))


def thresholds(expected=(1.0, 0.5), sure_share=0.6, unsure_share=1.5, min_score=0.05):
    return ClassThresholds(expected, sure_share, unsure_share, min_score)


def random_photos(count, seed=0):
    numbers = np.random.default_rng(seed)
    photos = []
    for _ in range(count):
        scores = numbers.random(4).tolist()
        photos.append(found(scores, numbers.integers(0, 2, 4).tolist()))
    return photos


def test_one_box_for_each_object_and_none_below_the_floor():
    boxes = torch.tensor(
        [[0, 0, 10, 10], [0, 0, 10, 11], [5, 0, 15, 10], [0, 0, 10, 10], [50, 50, 60, 60],
         [70, 70, 90, 70.5]]
    ).float()  # fmt: skip
    scores = torch.tensor([0.5, 0.9, 0.3, FLOOR - 0.01, 0.8, 0.9])
    kept = TeacherBoxes.of(boxes, scores, torch.tensor([0, 1, 0, 0, -1, 0]))
    # The first lies on the second, of another class; the fifth is of a class that is not known, and
    # the last has no height.
    assert kept.rows.tolist() == [1, 2]
    assert kept.labels.tolist() == [1, 0]
    empty = TeacherBoxes.of(boxes[:0], scores[:0], torch.zeros(0, dtype=torch.long))
    assert empty.boxes.shape == (0, 4)
    assert empty.divide(np.array([0.5]), np.array([0.1]))[1].shape == (0, 4)


def test_boxes_are_sure_unsure_or_neither():
    boxes = found([0.9, 0.6, 0.3, 0.6, 0.2], [0, 0, 0, 1, 1])
    sure, unsure = boxes.divide(np.array([0.7, 0.6]), np.array([0.5, 0.25]))
    # Row 3 reaches the threshold of its class.
    assert sure.rows.tolist() == [0, 3]
    assert unsure.tolist() == boxes.boxes[boxes.rows == 1].tolist()


def test_thresholds_are_the_scores_at_the_ranks_that_the_labels_promise():
    rule, photos = thresholds(), random_photos(100)
    for start in range(0, 100, 10):
        rule.add(rule.count(photos[start : start + 10]))
    limits = rule.limits()
    for share, of_share in zip((0.6, 1.5), limits, strict=True):
        for label, expected in enumerate((1.0, 0.5)):
            scores = torch.cat([p.scores[p.labels == label] for p in photos]).sort().values
            rank = share * expected * 100
            # What fades is small after 100 photos of 1000, and so is a bin.
            above = int((scores >= of_share[label]).sum())
            assert abs(above - rank) <= 0.1 * rank + 2
    # A rarer class has a higher threshold on scores of the same kind.
    assert limits[0][1] > limits[0][0] + 0.1
    assert (limits[0] > limits[1]).all()


def test_counts_of_processes_add_up():
    photos = random_photos(12)
    one, two = thresholds(), thresholds()
    one.add(one.count(photos))
    two.add(two.count(photos[::2]) + two.count(photos[1::2]))
    assert all(np.array_equal(a, b) for a, b in zip(one.limits(), two.limits(), strict=True))


def test_limits_of_the_limits():
    rule = thresholds(min_score=0.4)
    rule.add(rule.count([found([0.1, 0.2], [0, 1])]))
    assert rule.limits()[0].tolist() == [0.4, 0.4]  # nothing good
    assert (rule.limits()[1] >= FLOOR).all()
    rule = thresholds()
    rule.add(rule.count([found([1.0] * 20, [0] * 20)]))
    assert rule.limits()[0][0] == 0.95  # still lets the best ones pass
    rule = thresholds(expected=(1.0, 0.0))
    rule.add(rule.count(random_photos(30)))
    assert rule.limits()[0][1] == 0.95  # no label promises any


def test_thresholds_continue_from_a_checkpoint():
    rule, other = thresholds(), thresholds()
    rule.add(rule.count(random_photos(9)))
    other.load_state_dict(rule.state_dict())
    more = random_photos(5, seed=1)
    for each in (rule, other):
        each.add(each.count(more))
    assert all(np.array_equal(a, b) for a, b in zip(rule.limits(), other.limits(), strict=True))
    with pytest.raises(InputError, match='those of 2 classes, but this run has 3'):
        thresholds(expected=(1, 1, 1)).load_state_dict(rule.state_dict())


@pytest.mark.parametrize(
    'wrong',
    [dict(sure_share=0), dict(sure_share=1.2, unsure_share=1), dict(min_score=0.99)],
    ids=repr,
)
def test_rules_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match='unlabeled.'):
        thresholds(**wrong)


def quality(photos, with_boxes, boxes, **counts):
    plain = dict(num_unsure=0, agreed=0, predicted=0, labeled=0)
    return PseudoQuality(photos, with_boxes, boxes, **{**plain, **counts})


@pytest.mark.parametrize(
    ('found', 'says'),
    [
        (quality(400, 3, (2, 1)), 'only 3 of 400 photos'),
        (quality(100, 100, (300, 300)), '4.0 times as many boxes as the labels have'),
        (quality(100, 90, (98, 2)), "98% of the boxes .* 'cat', which has 67% of the labels"),
        (quality(100, 90, (90, 10)), None),
        (quality(100, 10, (10, 0)), None),  # too few to say
        (quality(0, 0, (0, 0)), 'only 0 of 0'),
    ],
)
def test_a_collapse_is_named(found, says):
    text = found.collapse(CLASSES, (1.0, 0.5))
    assert bool(text) == (says is not None)
    if says:
        with pytest.raises(AssertionError, match=says):
            raise AssertionError(text)


def test_one_class_is_no_collapse_where_the_labels_have_one():
    assert not quality(100, 90, (100, 0)).collapse(CLASSES, (1.0, 0.01))


def test_a_line_says_what_the_labels_are_like():
    told = quality(50, 30, (40, 10), num_unsure=5, agreed=6, predicted=8, labeled=10)
    assert told.describe(CLASSES, (1.0, 0.5)) == (
        '60% of 50 photos have sure boxes; per photo (per labeled image): cat 0.80 (1.00), '
        'dog 0.20 (0.50); unsure 0.10; agreement with the labels 0.67'
    )
    assert quality(50, 30, (40, 10)).agreement is None


def test_agreement_counts_each_label_once():
    labels = torch.tensor([0, 0, 1])
    truth = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [40, 0, 50, 10]]).float()
    boxes = torch.tensor([[0, 0, 10, 10], [1, 0, 10, 10], [40, 0, 50, 10], [0, 0, 10, 10]]).float()
    made = TeacherBoxes(boxes, torch.ones(4), torch.tensor([0, 0, 0, 1]), torch.arange(4))
    # The first two find the first two labels; the others have the place or the class of none.
    assert count_agreement(made, truth, labels) == 2
    assert count_agreement(made, truth[:0], labels[:0]) == 0
