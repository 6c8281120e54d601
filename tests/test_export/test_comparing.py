"""Comparison of detections and stages."""

import numpy as np
import pytest

from mmdet_dinov2.export.comparing import (
    Detections,
    by_level,
    compare,
    first_divergence,
)

TIE = 2e-5


def detections(count=30, seed=0):
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.uniform(0.06, 1, count))[::-1].copy()
    return Detections(rng.uniform(0, 100, (count, 4)), scores, rng.integers(0, 3, count))


def changed(found, **changes):
    return Detections(**{**vars(found), **changes})


def test_differences_of_every_kind():
    expected = detections()
    assert compare(expected, expected, TIE).pixels == 0
    boxes = expected.boxes.copy()
    boxes[4, 2] += 0.5
    difference = compare(expected, changed(expected, boxes=boxes), TIE)
    assert difference.pixels == pytest.approx(0.5) and difference.labels == 0
    labels = expected.labels.copy()
    labels[2] = (labels[2] + 1) % 3
    assert compare(expected, changed(expected, labels=labels), TIE).labels == 1
    scores = expected.scores - 1e-5
    difference = compare(expected, changed(expected, scores=scores), TIE)
    assert difference.score == pytest.approx(1e-5) and difference.pixels == 0


def test_near_ties_may_change_places():
    expected = detections()
    expected.scores[5] = expected.scores[4] - 1e-7
    order = np.arange(30)
    order[[4, 5]] = 5, 4
    found = Detections(expected.boxes[order], expected.scores, expected.labels[order])
    assert compare(expected, found, TIE).pixels == 0
    # Others may not.
    order[[4, 5, 9, 12]] = 4, 5, 12, 9
    found = Detections(expected.boxes[order], expected.scores, expected.labels[order])
    difference = compare(expected, found, TIE)
    assert difference.labels or difference.pixels > 1


def test_a_detection_twice_is_no_counterpart_of_two():
    expected = detections()
    expected.scores[5] = expected.scores[4]
    expected.labels[5] = expected.labels[4]
    boxes = expected.boxes.copy()
    boxes[5] = boxes[4]
    assert compare(expected, changed(expected, boxes=boxes), TIE).pixels > 1


def test_the_end_of_the_list_may_differ():
    expected = detections()
    expected.scores[28] = expected.scores[29] + 1e-6
    boxes = expected.boxes.copy()
    boxes[28:] += 50
    assert compare(expected, changed(expected, boxes=boxes), TIE).pixels == 0


def test_low_scores_count_only_among_the_best():
    expected = changed(detections(), scores=np.linspace(0.02, 0.01, 30))
    boxes = expected.boxes.copy()
    boxes[20] += 50
    assert compare(expected, changed(expected, boxes=boxes), TIE).pixels == 0
    boxes[3] += 50
    assert compare(expected, changed(expected, boxes=boxes), TIE).pixels == pytest.approx(50)


def test_values_that_are_not_finite():
    expected = detections()
    boxes = expected.boxes.copy()
    boxes[25] = np.nan
    assert np.isnan(compare(expected, changed(expected, boxes=boxes), TIE).pixels)
    worst = compare(expected, expected, TIE).with_worst(
        compare(expected, changed(expected, boxes=boxes), TIE)
    )
    assert np.isnan(worst.pixels)
    assert np.isnan(worst.with_worst(compare(expected, expected, TIE)).pixels)


def test_the_first_stage_that_differs():
    expected = {name: np.linspace(0, 10, 20) for name in ('embedding', 'block 0', 'block 1')}
    found = {name: values.copy() for name, values in expected.items()}
    assert first_divergence(expected, found, 1e-4) is None
    found['block 0'][3] += 0.5
    found['block 1'][3] += 5
    assert first_divergence(expected, found, 1e-4) == ('block 0', pytest.approx(0.05))
    assert first_divergence(expected, found, 0.1) == ('block 1', pytest.approx(0.5))
    found['embedding'][0] = np.inf
    name, difference = first_divergence(expected, found, 0.1)
    assert name == 'embedding' and np.isnan(difference)


def test_levels_of_a_pyramid():
    pyramid = np.arange(2 * 7 * 3).reshape(14, 3)
    divided = by_level(dict(pyramid=pyramid, other=np.ones(2)), [4, 2, 1], 2)
    assert list(divided) == ['pyramid level 0', 'pyramid level 1', 'pyramid level 2', 'other']
    assert np.array_equal(divided['pyramid level 1'], pyramid.reshape(2, 7, 3)[:, 4:6])
