"""Losses of images with a weight, and of queries on boxes that may be objects or not."""

import copy

import pytest
import torch

from mmdet_dinov2.layers.boxes import corners_of
from mmdet_dinov2.models.dino_head import BatchedDINOHead
from mmdet_dinov2.models.targets import BoxTargets
from mmdet_dinov2.sample_meta import IMAGE_WEIGHT, SAMPLE_SEED, UNSURE_BOXES

from ..reference.background_loss import background_loss
from ..tiny import data_sample, tiny_detector

SIZES = ((90, 70), (56, 104), (70, 70))


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    model = tiny_detector().train()
    for branch in model.bbox_head.cls_branches:  # else the background costs next to nothing
        torch.nn.init.zeros_(branch.bias)
    return model


@pytest.fixture
def batch():
    """Returns images padded to one size, and their samples; the last has no boxes."""
    canvas = (90, 104)
    samples = [data_sample(*size, num_boxes) for size, num_boxes in zip(SIZES, (4, 2, 0))]
    for seed, sample in enumerate(samples):
        sample.set_metainfo({SAMPLE_SEED: seed, 'batch_input_shape': canvas})
    return torch.randn(3, 3, *canvas), samples


def weighted(samples, weights):
    samples = copy.deepcopy(samples)
    for sample, weight in zip(samples, weights, strict=True):
        if weight is not None:
            sample.set_metainfo({IMAGE_WEIGHT: weight})
    return samples


@torch.no_grad()
def losses_of(model, images, samples):
    return model.loss(images, copy.deepcopy(samples))


def test_an_image_of_weight_0_adds_nothing(model, batch):
    images, samples = batch
    alone = losses_of(model, images[:1], samples[:1])
    beside = losses_of(model, images, weighted(samples, (None, 0.0, 0.0)))
    for name, loss in alone.items():
        assert beside[name] == pytest.approx(float(loss), rel=1e-4), name


def test_losses_are_weighted_means_over_boxes(model, batch):
    images, samples = batch
    first = losses_of(model, images[:1], samples[:1])
    second = losses_of(model, images[1:2], samples[1:2])
    both = losses_of(model, images[:2], weighted(samples[:2], (None, 0.3)))
    counts, weight = (4, 2), 0.3
    for name, loss in both.items():
        total = counts[0] * first[name] + weight * counts[1] * second[name]
        expected = float(total) / (counts[0] + weight * counts[1])
        assert loss == pytest.approx(expected, rel=1e-3), name


def test_weights_of_1_change_nothing(model, batch):
    images, samples = batch
    plain = losses_of(model, images, samples)
    ones = losses_of(model, images, weighted(samples, (None, 1.0, 1.0)))
    for name, loss in plain.items():
        assert torch.equal(loss, ones[name]), name


def test_queries_on_unsure_boxes_are_no_background(model, batch, monkeypatch):
    images, samples = batch
    seen = {}
    original = BatchedDINOHead._set_losses

    def keep(self, sets):
        losses = original(self, sets)
        first = sets[0]
        values = (first.scores, first.boxes, first.matches, first.targets, first.num_boxes)
        seen.setdefault('call', (*values, losses[0]))
        return losses

    monkeypatch.setattr(BatchedDINOHead, '_set_losses', keep)
    photos = weighted(samples, (None, 0.5, 0.25))
    losses_of(model, images, photos)
    sizes = BoxTargets.collate(samples).sizes
    _, boxes, matches, *_ = seen.pop('call')
    predicted = corners_of(boxes[1]) * sizes[:, None]
    matched = matches.query[(matches.layer == 1) & (matches.image == 1)]
    # Boxes that queries predict, some of which have a box, and one that none predicts exactly.
    rows = torch.cat((matched, torch.tensor([3, 4])))
    unsure = [torch.zeros(0, 4), predicted[1, rows], predicted[2, :1] + 3]
    for photo, of_photo in zip(photos[1:], unsure[1:], strict=True):
        photo.set_field(of_photo, UNSURE_BOXES)
    losses_of(model, images, photos)
    scores, boxes, matches, targets, num_boxes, losses = seen['call']
    for layer in range(len(scores)):
        matched = [
            matches.query[(matches.layer == layer) & (matches.image == image)].tolist()
            for image in range(3)
        ]
        arguments = (
            scores[layer].double().tolist(),
            (corners_of(boxes[layer]) * sizes[:, None]).double().tolist(),
            matched,
            (1.0, 0.5, 0.25),
        )
        ignoring = background_loss(*arguments, [of_image.tolist() for of_image in unsure])
        counting = background_loss(*arguments, [[], [], []])
        gaps = _gaps(scores[layer], matches, targets, layer)
        assert losses['loss_cls'][layer] * num_boxes == pytest.approx(ignoring + gaps, rel=1e-3)
        if layer == 1:  # the boxes are those of this layer
            assert counting > 1.01 * ignoring


def _gaps(scores, matches, targets, layer):
    """Adds up the loss of matched logits as positives minus that as negatives."""
    total = 0.0
    for at, image, query, target in zip(
        matches.layer.tolist(), matches.image.tolist(), matches.query.tolist(),
        matches.target.tolist(), strict=True,
    ):  # fmt: skip
        if at == layer:
            p = scores[image, query, targets.labels[image, target]].double().sigmoid()
            positive = -0.25 * (1 - p) ** 2 * p.log()
            negative = -0.75 * p**2 * (1 - p).log()
            total += (1.0, 0.5, 0.25)[image] * float(positive - negative)
    return total


def test_unsure_boxes_of_a_batch_without_any():
    samples = weighted([data_sample(56, 56, 0), data_sample(56, 70, 1)], (0.5, None))
    samples[0].set_field(torch.zeros(0, 4), UNSURE_BOXES)
    targets = BoxTargets.collate(samples)
    assert targets.unsure.shape == (2, 0, 4)
    assert targets.image_weights.tolist() == [0.5, 1.0]
    assert BoxTargets.collate([data_sample(56, 56, 2)]).image_weights is None
