"""Losses of self-distillation, compared with loops over all pairs."""

import math

import pytest
import torch

from mmdet_dinov2.layers import dino_loss, entropy, koleo_loss, mean_of_images, soft_cross_entropy

from ..reference import self_distillation as reference


def probabilities(*shape):
    return torch.randn(shape).softmax(-1)


@pytest.mark.parametrize('num_local', [0, 1, 4])
def test_dino(num_local):
    targets, scores = probabilities(2, 3, 9), torch.randn(2 + num_local, 3, 9)
    expected = reference.dino(targets, scores, 0.1)
    loss = dino_loss(targets.flatten(0, 1), scores.flatten(0, 1), 2, 0.1)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_ibot():
    counts = [3, 0, 5, 1]
    targets, scores = probabilities(9, 6), torch.randn(9, 6)
    loss = mean_of_images(soft_cross_entropy(targets, scores, 0.2), counts)
    expected = reference.ibot(targets.split(counts), scores.split(counts), 0.2)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_without_masked_patches_there_is_a_gradient_of_zero():
    scores = torch.randn(0, 6, requires_grad=True)
    loss = mean_of_images(soft_cross_entropy(probabilities(0, 6), scores, 0.2), [0, 0])
    loss.backward()
    assert loss == 0 and scores.grad.shape == (0, 6)


def test_entropy():
    uniform = torch.full((1, 8), 1 / 8)
    certain = torch.eye(8)[:1]
    assert entropy(torch.cat((uniform, certain))).tolist() == pytest.approx([math.log(8), 0.0])


def test_koleo():
    features = torch.randn(7, 5)
    directions = torch.nn.functional.normalize(features, dim=-1)
    expected = reference.koleo(features)
    assert koleo_loss(directions, directions).item() == pytest.approx(expected, rel=1e-6)
    # The means of two processes.
    halves = [koleo_loss(directions[:3], directions), koleo_loss(directions[3:], directions, 3)]
    assert (3 * halves[0] + 4 * halves[1]).item() / 7 == pytest.approx(expected, rel=1e-6)


def test_koleo_spreads_images_apart():
    features = torch.randn(6, 3, requires_grad=True)
    before = koleo_loss(*[torch.nn.functional.normalize(features, dim=-1)] * 2)
    before.backward()
    with torch.no_grad():
        features -= 0.01 * features.grad
        after = koleo_loss(*[torch.nn.functional.normalize(features, dim=-1)] * 2)
    assert after < before


def test_one_image_has_no_neighbour():
    feature = torch.ones(1, 3, requires_grad=True)
    loss = koleo_loss(feature, feature)
    loss.backward()
    assert loss == 0 and (feature.grad == 0).all()
