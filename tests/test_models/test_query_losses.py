"""IoU-aware classification, CARL, weights of boxes and groups of queries in the losses."""

import copy

import pytest
import torch
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy

from mmdet_dinov2.errors import InputError
from mmdet_dinov2.layers import carl_weights
from mmdet_dinov2.models import BatchedDINOHead, BatchedHungarianAssigner, PositionModulatedCost
from mmdet_dinov2.models.targets import BoxTargets

from ..reference import query_losses as reference
from ..tiny import NUM_CLASSES, data_sample, detector_cfg
from .test_dino_head import denoise, generator_of, ground_truth, loss_and_grads, predictions

LOSSES = {
    'IABCELoss': (reference.ia_bce, reference.ia_bce_slope, dict(alpha=0.3, gamma=1.7)),
    'MALoss': (reference.mal, reference.mal_slope, dict(gamma=1.5)),
}


def head_of(**options):
    cfg = detector_cfg()
    settings = cfg['bbox_head'] | options
    settings.pop('type')
    shared = dict(share_pred_layer=False, num_pred_layer=3, as_two_stage=True)
    return BatchedDINOHead(**settings, **shared, train_cfg=copy.deepcopy(cfg['train_cfg']))


def inputs_of(counts, num_groups=1):
    """Returns predictions of two layers and the proposals, the samples and the denoising."""
    samples = ground_truth(counts)
    *_, dn_meta = denoise(generator_of(), samples)
    dn_meta['num_query_groups'] = num_groups
    scores, boxes = predictions(2, 3, dn_meta['num_denoising_queries'] + 12 * num_groups)
    enc_scores, enc_boxes = (x[0] for x in predictions(1, 3, 12 * num_groups))
    return [scores, boxes, enc_scores, enc_boxes], samples, dn_meta


def pairs_of(head, scores, boxes, samples):
    """Returns for each image its (query, target) pairs and the overlaps of their boxes."""
    targets = BoxTargets.collate(samples)
    matches = head.assigner.assign_batch(scores[None], boxes[None], targets)
    found = []
    for image in range(len(samples)):
        here = matches.image == image
        pairs = zip(matches.query[here].tolist(), matches.target[here].tolist(), strict=True)
        found.append(list(pairs))
    return targets, found


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('counts', [(4, 1, 7), (0, 3, 0), (0, 0, 0)])
def test_losses_and_gradients_are_those_of_the_papers(name, counts):
    loss, slope, settings = LOSSES[name]
    head = head_of(loss_cls=dict(type=name, loss_weight=2.0, **settings))
    inputs, samples, dn_meta = inputs_of(counts)
    losses, grads = loss_and_grads(head, inputs, samples, dn_meta)
    first, num_boxes = dn_meta['num_denoising_queries'], max(sum(counts), 1)
    scores, boxes = (x[-1, :, first:] for x in inputs[:2])
    targets, pairs = pairs_of(head, scores, boxes, samples)
    total, expected = 0.0, torch.zeros_like(scores)
    for image, of_image in enumerate(pairs):
        overlaps = {}
        for query, target in of_image:
            corners = bbox_cxcywh_to_xyxy(boxes[image, query]).tolist()
            box = bbox_cxcywh_to_xyxy(targets.boxes[image, target]).tolist()
            overlaps[query, int(targets.labels[image, target])] = reference.iou(corners, box)
        for query in range(scores.shape[1]):
            for label in range(NUM_CLASSES):
                case = scores[image, query, label].item(), overlaps.get((query, label))
                total += 2.0 * loss(*case, **settings) / num_boxes
                expected[image, query, label] = 2.0 * slope(*case, **settings) / num_boxes
    torch.testing.assert_close(losses['loss_cls'].item(), total, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grads[0][-1, :, first:], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', LOSSES)
def test_denoising_queries_have_the_same_loss(name):
    loss, _, settings = LOSSES[name]
    head = head_of(loss_cls=dict(type=name, **settings))
    inputs, samples, dn_meta = inputs_of((2, 0, 1))
    losses, _ = loss_and_grads(head, inputs, samples, dn_meta)
    layout, targets = dn_meta['layout'], dn_meta['denoised']
    total = 0.0
    for image in range(3):
        for query in range(int(layout.valid[image].sum())):
            target = layout.target[image, query]
            box = bbox_cxcywh_to_xyxy(targets.boxes[image, target]).tolist()
            corners = bbox_cxcywh_to_xyxy(inputs[1][-1, image, query]).tolist()
            for label in range(NUM_CLASSES):
                is_positive = not layout.negative[image, query]
                overlap = reference.iou(corners, box)
                matched = is_positive and label == targets.labels[image, target]
                logit = inputs[0][-1, image, query, label].item()
                value = loss(logit, overlap if matched else None, **settings)
                total += value / layout.groups[image] / 3
    torch.testing.assert_close(losses['dn_loss_cls'].item(), total, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', LOSSES)
def test_extreme_logits_and_boxes_without_overlap_have_finite_gradients(name):
    head = head_of(loss_cls=dict(type=name))
    inputs, samples, dn_meta = inputs_of((4, 1, 7))
    inputs[0][:, :, ::2] = 1e4
    inputs[0][:, :, 1::2] = -1e4
    inputs[1][..., 2:] = 1e-4
    losses, grads = loss_and_grads(head, inputs, samples, dn_meta)
    assert all(value.isfinite() for value in losses.values())
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize('counts', [(4, 1, 7), (0, 3, 0), (0, 0, 0)])
def test_carl_weighs_the_boxes_of_an_image_by_their_scores(counts):
    head = head_of(carl=dict(k=1.5, bias=0.2))
    inputs, samples, dn_meta = inputs_of(counts)
    losses, _ = loss_and_grads(head, inputs, samples, dn_meta)
    first = dn_meta['num_denoising_queries']
    scores, boxes = (x[-1, :, first:] for x in inputs[:2])
    targets, pairs = pairs_of(head, scores, boxes, samples)
    total = 0.0
    for image, of_image in enumerate(pairs):
        probabilities, distances = [], []
        for query, target in of_image:
            label = targets.labels[image, target]
            probabilities.append(reference.sigmoid(scores[image, query, label].item()))
            off = (boxes[image, query] - targets.boxes[image, target]).abs().sum().item()
            distances.append(5.0 * off)
        if of_image:
            total += reference.carl(probabilities, distances, k=1.5, bias=0.2)
    total /= max(sum(counts), 1)
    torch.testing.assert_close(losses['loss_carl'].item(), total, rtol=1e-4, atol=1e-5)
    assert {'enc_loss_carl', 'd0.loss_carl', 'd0.dn_loss_carl', 'dn_loss_carl'} <= set(losses)


def test_carl_raises_the_scores_of_boxes_that_fit():
    scores = torch.zeros(3, requires_grad=True, dtype=torch.double)
    images = torch.tensor([0, 0, 1])
    fit = torch.tensor([0.1, 0.9, 0.5], dtype=torch.double)

    def loss(scores):
        return (carl_weights(scores.sigmoid(), images, 2, 1.0, 0.2) * fit).sum()

    assert torch.autograd.gradcheck(loss, scores)
    (grad,) = torch.autograd.grad(loss(scores), scores)
    assert grad[0] < 0 < grad[1] and abs(grad[2]) < 1e-12


@pytest.mark.parametrize('carl', [dict(k=1.0), dict(k=1.0, bias=0.0), dict(k=-1, bias=0.2)])
def test_wrong_settings_of_carl_are_refused(carl):
    with pytest.raises(InputError, match=r'bbox_head\.carl must have k of at least 0'):
        head_of(carl=carl)


def test_the_position_modulated_cost_is_that_of_the_paper():
    settings = dict(weight=2.0, alpha=0.3, gamma=1.5, beta=0.5)
    samples = ground_truth((2, 0, 5))
    scores, boxes = predictions(2, 3, 6)
    targets = BoxTargets.collate(samples)
    assigner = BatchedHungarianAssigner([dict(type='PositionModulatedCost', **settings)])
    got = assigner._costs(scores, boxes, targets)
    for layer in range(2):
        for image, count in enumerate(targets.counts):
            for target in range(count):
                box = bbox_cxcywh_to_xyxy(targets.boxes[image, target]).tolist()
                label = targets.labels[image, target]
                for query in range(6):
                    corners = bbox_cxcywh_to_xyxy(boxes[layer, image, query]).tolist()
                    logit = scores[layer, image, query, label].item()
                    expected = reference.position_modulated_cost(logit, corners, box, **settings)
                    assert got[layer, image, target, query].item() == pytest.approx(
                        expected, rel=1e-3, abs=1e-4
                    )
    with pytest.raises(InputError, match='beta of PositionModulatedCost must be at least 0'):
        PositionModulatedCost(beta=-1)


@pytest.mark.parametrize('name', ['FocalLoss', *LOSSES])
def test_each_group_of_queries_is_matched_alone(name):
    head = head_of(loss_cls=dict(type=name), carl=dict(k=1.0, bias=0.2))
    inputs, samples, dn_meta = inputs_of((4, 0, 7), num_groups=3)
    losses, _ = loss_and_grads(head, inputs, samples, dn_meta)
    first = dn_meta['num_denoising_queries']
    dn_meta['num_query_groups'] = 1
    means = dict.fromkeys(losses, 0.0)
    for group in range(3):
        rows = slice(first + 12 * group, first + 12 * (group + 1))
        own = [torch.cat((x[:, :, :first], x[:, :, rows]), 2) for x in inputs[:2]]
        own += [x[:, 12 * group : 12 * (group + 1)] for x in inputs[2:]]
        for key, value in loss_and_grads(head, own, samples, dn_meta)[0].items():
            means[key] += value / 3
    for key, value in losses.items():
        torch.testing.assert_close(value, means[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ['FocalLoss', *LOSSES])
def test_weights_of_boxes_count_in_every_loss(name):
    """A weight of 0 leaves a box that has a query and no loss, a weight of 1 changes nothing."""
    head = head_of(loss_cls=dict(type=name), carl=None)
    inputs, samples, dn_meta = inputs_of((2, 1, 0))
    plain, _ = loss_and_grads(head, inputs, samples, dn_meta)
    weighted = []
    for weight in (1.0, 0.5, 0.0):
        for sample in samples[1:2]:
            sample.gt_instances.weights = torch.full((1,), weight)
        targets = BoxTargets.collate(samples)
        assert targets.weights.tolist() == [[1.0, 1.0], [weight, 0.0], [0.0, 0.0]]
        meta = {**dn_meta, 'targets': targets, 'denoised': targets}
        weighted.append(loss_and_grads(head, inputs, samples, meta)[0])
    for key, value in plain.items():
        torch.testing.assert_close(weighted[0][key], value)
        # Linear in the weight.
        torch.testing.assert_close(
            2 * weighted[1][key], weighted[0][key] + weighted[2][key], rtol=1e-5, atol=1e-6
        )
        assert not torch.isclose(weighted[2][key], value)


def test_chosen_boxes_keep_their_weights():
    sample = data_sample(60, 80, num_boxes=5)
    sample.gt_instances.weights = torch.arange(5.0)
    targets = BoxTargets.collate([sample])
    chosen = targets.sample(3, [torch.Generator().manual_seed(0)])
    for box, weight in zip(chosen.boxes[0], chosen.weights[0], strict=True):
        assert torch.equal(targets.boxes[0, int(weight)], box)
