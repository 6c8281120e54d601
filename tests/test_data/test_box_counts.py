"""Counts of boxes on columns, compared with counting them one by one."""

import random

import numpy as np
import pytest

from mmdet_dinov2.data import box_counts
from mmdet_dinov2.data.box_counts import (
    count_boxes,
    look_like_corners,
    looks_normalised,
    trained_on,
)

from ..columns import columns_of_entries
from ..reference import box_counts as reference

CATEGORIES = [dict(id=i, name=n) for i, n in ((7, 'cat'), (9, 'dog'), ('x', 'fox'), (3, 'cat'))]
CLASSES = ('cat', 'fox')


def random_entries(rng, num_images, num_annotations, boxes='any'):
    """Returns images and annotations with every reason to drop a box, in any order."""
    ids = rng.sample([*range(50), *'abcdefgh'], num_images)
    images = [
        dict(id=key, file_name=f'{key}.jpg', width=rng.choice([20, 40, 33.5]), height=30)
        for key in ids
    ]
    annotations = []
    for number in range(num_annotations):
        box = dict(
            any=[
                rng.choice([-8, -0.5, 0, 0.25, 5, 39.5, 40]),
                rng.choice([-8, 0, 0.5, 29.9, 30]),
                rng.choice([-1, 0, 0.5, 1, 8, 60]),
                rng.choice([0.25, 0.99, 1, 8]),
            ],
            normalised=[rng.random() / 2 for _ in range(4)],
            corners=[x := rng.uniform(0, 15), y := rng.uniform(0, 15), x + 8, y + 12],
        )[boxes]
        entry = dict(
            id=number,
            image_id=rng.choice([*ids, 99, 'zz']),
            category_id=rng.choice([7, 9, 'x', 3, 55, 'y']),
            bbox=box,
        )
        for key, values in (
            ('area', [-1, 0, 0.5, 9]),
            ('iscrowd', [0, 1]),
            ('ignore', [0, 0, 0, 1]),
        ):
            if rng.random() < 0.5:
                entry[key] = rng.choice(values)
        annotations.append(entry)
    return images, annotations


@pytest.mark.parametrize('block', [1, 7, 10**6])
def test_boxes_are_counted_one_by_one(monkeypatch, block):
    monkeypatch.setattr(box_counts, '_BLOCK', block)
    reasons = set()
    for seed in range(30):
        rng = random.Random(seed)
        images, annotations = random_entries(rng, rng.randrange(8), rng.randrange(60))
        columns = columns_of_entries('a.json', images, CATEGORIES, annotations)
        for min_size in (0, 25):
            expected = reference.count_boxes(images, CATEGORIES, annotations, CLASSES, min_size)
            found = vars(count_boxes(columns, CLASSES, min_size))
            found = dict(found, per_image=found['per_image'].tolist())
            found['trained_on'] = trained_on(columns).tolist()
            assert found == expected
            # The order is that of the file.
            assert list(found['dropped']) == list(expected['dropped'])
            reasons |= set(found['dropped'])
    assert len(reasons) == 7


@pytest.mark.parametrize('kind', ['any', 'normalised', 'corners'])
def test_kinds_of_wrong_boxes(monkeypatch, kind):
    monkeypatch.setattr(box_counts, '_BLOCK', 3)
    found = []
    for seed in range(20):
        rng = random.Random(seed)
        images, annotations = random_entries(rng, 6, rng.randrange(12), kind)
        columns = columns_of_entries('a.json', images, CATEGORIES, annotations)
        both = looks_normalised(columns), look_like_corners(columns)
        assert both == (
            reference.looks_normalised(annotations),
            reference.look_like_corners(images, annotations),
        )
        found.append(both)
    counts = np.sum(found, axis=0)
    assert counts[0] > 10 if kind == 'normalised' else counts[0] < 5
    assert counts[1] > 3 if kind == 'corners' else True
