"""Prototypes and targets, compared with the sums written out."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from mmdet_dinov2.layers import PrototypeHead, centred_softmax, sinkhorn_knopp

from ..reference import self_distillation as reference


def numbers(*shape):
    return 2 * torch.rand(shape) - 1


def test_the_head_compares_directions():
    head = PrototypeHead(12, num_prototypes=7, hidden=9, bottleneck=5)
    tokens = torch.randn(4, 12)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
        scores = head(tokens)
        layers = [(m.weight, m.bias) for m in head.mlp if isinstance(m, torch.nn.Linear)]
        expected = reference.scores_of_head(layers, head.last_layer.weight, tokens)
        assert np.allclose(scores, expected, atol=1e-6)
        head.last_layer.weight.mul_(3)
        assert torch.allclose(head(tokens), scores, atol=1e-6)


@pytest.mark.parametrize('num_layers', [1, 2])
def test_a_shallow_head(num_layers):
    head = PrototypeHead(12, num_prototypes=7, hidden=9, bottleneck=5, num_layers=num_layers)
    assert head(torch.randn(3, 12)).shape == (3, 7)
    assert sum(isinstance(m, torch.nn.Linear) for m in head.mlp) == num_layers


def test_centred_softmax():
    scores, center = numbers(5, 11), numbers(11)
    expected = reference.softmax((scores - center).double().numpy() / 0.05)
    assert np.allclose(centred_softmax(scores, center, 0.05), expected, atol=1e-6)


@pytest.mark.parametrize('temperature', [0.02, 0.07])
def test_sinkhorn(temperature):
    scores = numbers(13, 6)
    targets = sinkhorn_knopp(scores, temperature)
    assert np.allclose(targets, reference.sinkhorn(scores, temperature), atol=1e-6)
    assert torch.allclose(targets.sum(1), torch.ones(13), atol=1e-6)


def test_sinkhorn_over_processes():
    scores = numbers(14, 6)
    parts = scores.split((5, 9))
    given, barrier = [None, None], threading.Barrier(2)

    def targets(rank):
        def add_up(own):
            given[rank] = own
            barrier.wait(60)
            total = given[0] + given[1]
            barrier.wait(60)
            return total

        return sinkhorn_knopp(parts[rank], 0.05, add_up)

    with ThreadPoolExecutor(2) as pool:
        found = torch.cat(list(pool.map(targets, range(2))))
    assert torch.allclose(found, sinkhorn_knopp(scores, 0.05), atol=1e-6)
    assert not torch.allclose(found[:5], sinkhorn_knopp(parts[0], 0.05), atol=1e-2)


def test_sinkhorn_survives_what_underflows():
    scores = torch.full((3, 4), -1.0)
    scores[0, 0] = 1.0
    assert sinkhorn_knopp(scores, 0.01).isfinite().all()
    assert sinkhorn_knopp(scores[:0], 0.01).shape == (0, 4)
