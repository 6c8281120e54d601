"""The diverse choice, beside a slow one."""

import numpy as np
import pytest
import torch

from mmdet_dinov2.selection.choice import choose_diverse

from ..reference.photo_selection import greedy_choice


class Vectors:
    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, rows):
        return self.values[rows]


def unit_vectors(count, seed):
    values = torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=1)


@pytest.mark.parametrize('num_labeled', [0, 1, 6])
@pytest.mark.parametrize('weighted', [False, True])
def test_the_choice_is_that_of_a_slow_one(num_labeled, weighted):
    photos, labeled = unit_vectors(23, 1), unit_vectors(num_labeled, 2)
    uncertainty = np.random.default_rng(0).random(23) if weighted else None
    choice = choose_diverse(Vectors(photos), 9, Vectors(labeled), uncertainty)
    weights = 1 + (uncertainty if weighted else np.zeros(23))
    expected = greedy_choice(photos.numpy(), 9, list(labeled.numpy()), weights)
    assert choice.index.tolist() == expected
    assert np.isnan(choice.distance[0]) == (num_labeled == 0)
    before = torch.cat((labeled, photos[expected[:-1]]))
    last = torch.cdist(photos[expected[-1:]], before).min()
    assert choice.distance[-1] == pytest.approx(float(last), abs=1e-3)


def test_uncertainty_changes_the_choice_but_distance_comes_first():
    photos = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.5, 0.75**0.5], [0.999, 0.0447]])
    labeled = Vectors(photos[:1])
    unsure = np.array([0.0, 1.0, 0.0, 1.0])
    assert choose_diverse(Vectors(photos[1:]), 1, labeled).index.tolist() == [1]
    assert choose_diverse(Vectors(photos[1:]), 1, labeled, unsure[1:]).index.tolist() == [0]
    # The photo beside the labeled one is not chosen, however unsure it is.
    assert choose_diverse(Vectors(photos[1:]), 1, labeled, unsure[[0, 2, 3]]).index.tolist() == [1]


def test_near_duplicates_of_chosen_photos_are_passed_over():
    photos = unit_vectors(12, 3)
    everything = choose_diverse(Vectors(photos), 12).index.tolist()
    seen = []

    def is_copy(photo, chosen):
        seen.append((photo, list(chosen)))
        return photo == everything[2]

    choice = choose_diverse(Vectors(photos), 4, is_copy=is_copy)
    assert choice.skipped == 1 and choice.index.tolist()[:2] == everything[:2]
    assert everything[2] not in choice.index and len(choice.index) == 4
    assert seen[0] == (everything[1], everything[:1])


@pytest.mark.parametrize('count', [0, 3, 50])
@pytest.mark.parametrize('num_photos', [0, 1, 3])
def test_more_photos_than_there_are(count, num_photos):
    choice = choose_diverse(Vectors(unit_vectors(num_photos, 0)), count)
    assert sorted(choice.index.tolist()) == list(range(min(count, num_photos)))
    assert len(choice.distance) == len(choice.index) and choice.skipped == 0
