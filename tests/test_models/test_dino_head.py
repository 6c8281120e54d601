"""Matching, denoising queries and losses against mmdet's own, layer by layer and image by image."""

import copy

import pytest
import torch
from mmcv.cnn.bricks.transformer import MultiheadAttention
from mmdet.models.dense_heads import DINOHead
from mmdet.models.layers.transformer import CdnQueryGenerator
from mmdet.models.task_modules.assigners import (
    BBoxL1Cost,
    FocalLossCost,
    HungarianAssigner,
    IoUCost,
)
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmengine.structures import InstanceData
from torch._dynamo.utils import counters

from mmdet_dinov2.errors import InputError
from mmdet_dinov2.layers import compiling
from mmdet_dinov2.models import BatchedDINOHead, BatchedHungarianAssigner, matching
from mmdet_dinov2.models.denoising import DenoisingQueryGenerator
from mmdet_dinov2.models.query_attention import QuerySelfAttention, additive_mask
from mmdet_dinov2.models.targets import BoxTargets
from mmdet_dinov2.sample_meta import SAMPLE_SEED, announce_step, sample_seeds

from ..tiny import NUM_CLASSES, data_sample, detector_cfg

MATCH_COSTS = detector_cfg()['train_cfg']['assigner']['match_costs']
SIZES = [(60, 80), (97, 41), (50, 50)]


def ground_truth(counts, sizes=SIZES):
    return [data_sample(*size, num_boxes=n) for size, n in zip(sizes, counts, strict=True)]


def predictions(num_layers, batch_size, num_queries):
    scores = torch.randn(num_layers, batch_size, num_queries, NUM_CLASSES)
    boxes = torch.rand(num_layers, batch_size, num_queries, 4) * 0.5 + 0.2
    return scores, boxes


def heads():
    """Builds mmdet's head and ours with the same weights."""
    cfg = detector_cfg()
    options = cfg['bbox_head'] | dict(share_pred_layer=False, num_pred_layer=3, as_two_stage=True)
    options.pop('type')
    options['loss_cls'] = dict(type='FocalLoss', gamma=1.5, alpha=0.3, loss_weight=2.0)
    theirs = dict(assigner=dict(type='HungarianAssigner', match_costs=MATCH_COSTS))
    ours = dict(assigner=dict(type='BatchedHungarianAssigner', match_costs=MATCH_COSTS))
    return (
        DINOHead(**copy.deepcopy(options), train_cfg=theirs),
        BatchedDINOHead(**copy.deepcopy(options), train_cfg=ours),
    )


def assigned_by_mmdet(scores, boxes, sample):
    """Returns the pairs (query, target) of one layer and image by mmdet's assigner."""
    height, width = sample.img_shape
    result = HungarianAssigner(MATCH_COSTS).assign(
        InstanceData(
            scores=scores,
            bboxes=bbox_cxcywh_to_xyxy(boxes) * torch.tensor([width, height, width, height]),
        ),
        sample.gt_instances,
        sample.metainfo,
    )
    query = (result.gt_inds > 0).nonzero()[:, 0]
    return {(q, result.gt_inds[q].item() - 1) for q in query.tolist()}


# 20 queries: fewer, as many and more boxes.
@pytest.mark.parametrize('counts', [(4, 1, 7), (0, 3, 0), (20, 25, 1)])
@pytest.mark.parametrize('limit', [2**26, 1])
def test_assignments_are_those_of_mmdet(counts, limit, monkeypatch):
    monkeypatch.setattr(matching, '_MAX_COSTS_AT_ONCE', limit)
    samples = ground_truth(counts)
    scores, boxes = predictions(3, 3, 20)
    matches = BatchedHungarianAssigner(MATCH_COSTS).assign_batch(
        scores, boxes, BoxTargets.collate(samples)
    )
    for layer in range(3):
        for image, sample in enumerate(samples):
            here = (matches.layer == layer) & (matches.image == image)
            pairs = zip(matches.query[here].tolist(), matches.target[here].tolist(), strict=True)
            assert set(pairs) == assigned_by_mmdet(
                scores[layer, image], boxes[layer, image], sample
            )


def test_no_boxes_match_nothing():
    scores, boxes = predictions(2, 3, 5)
    matches = BatchedHungarianAssigner(MATCH_COSTS).assign_batch(
        scores, boxes, BoxTargets.collate(ground_truth((0, 0, 0)))
    )
    assert len(matches.query) == 0


def test_non_finite_costs_lose_and_are_counted():
    samples = ground_truth((2, 1, 1))
    scores, boxes = predictions(1, 3, 4)
    boxes[0, 0, 0] = torch.nan
    boxes[0, 1, 2, 0] = torch.inf
    assigner = BatchedHungarianAssigner(MATCH_COSTS)
    matches = assigner.assign_batch(scores, boxes, BoxTargets.collate(samples))
    assert assigner.num_nonfinite == 2 + 1
    pairs = set(zip(matches.image.tolist(), matches.query.tolist(), strict=True))
    assert (0, 0) not in pairs and (1, 2) not in pairs
    assert len(pairs) == 4


def test_compiled_costs_are_the_same(monkeypatch):
    monkeypatch.setattr(compiling, '_BACKEND', 'aot_eager')
    torch._dynamo.reset()
    counters.clear()
    costs = [*copy.deepcopy(MATCH_COSTS), dict(type='PositionModulatedCost', weight=3.0)]
    plain, compiled = (BatchedHungarianAssigner(copy.deepcopy(costs)) for _ in range(2))
    compiled.compiled = True
    for counts, queries in (((4, 0, 7), 6), ((3, 5), 9), ((2, 3, 1, 8), 5), ((6, 2, 1), 7)):
        targets = BoxTargets.collate(ground_truth(counts, [(60, 80)] * len(counts)))
        of_batch = predictions(2, len(counts), queries)
        expected, got = (one._costs(*of_batch, targets) for one in (plain, compiled))
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert counters['stats']['unique_graphs'] == 1
    torch._dynamo.reset()


def test_extreme_scores_have_finite_costs():
    scores, boxes = predictions(1, 3, 4)
    scores[:] = 1e4
    assigner = BatchedHungarianAssigner(MATCH_COSTS)
    assigner.assign_batch(scores, boxes, BoxTargets.collate(ground_truth((2, 1, 1))))
    assert assigner.num_nonfinite == 0


@pytest.mark.parametrize('counts', [(1, 2, 0), (4, 1, 7)])  # fewer and more boxes than classes
@pytest.mark.parametrize(
    'cost',
    [
        FocalLossCost(weight=2.0, alpha=0.4, gamma=1.5),
        BBoxL1Cost(weight=5.0, box_format='xywh'),
        IoUCost(weight=3.0, iou_mode='iou'),
        IoUCost(weight=2.0, iou_mode='giou'),
    ],
    ids=['focal', 'l1', 'iou', 'giou'],
)
def test_costs_are_those_of_mmdet(cost, counts):
    samples = ground_truth(counts)
    scores, boxes = predictions(2, 3, 6)
    boxes[0, 0, 0] = torch.nan
    boxes[0, 1, 2, 2:] = 0.0  # an area of 0
    targets = BoxTargets.collate(samples)
    assigner = BatchedHungarianAssigner(MATCH_COSTS)
    assigner.match_costs = [cost]
    got = assigner._costs(scores, boxes, targets)
    assert got.shape == (2, 3, max(counts), 6)
    for layer in range(2):
        for image, sample in enumerate(samples):
            queries = InstanceData(
                scores=scores[layer, image],
                bboxes=bbox_cxcywh_to_xyxy(boxes[layer, image]) * targets.sizes[image],
            )
            expected = cost(queries, sample.gt_instances, sample.metainfo)
            torch.testing.assert_close(
                got[layer, image, : counts[image]],
                expected.T,
                rtol=1e-5,
                atol=1e-5,
                equal_nan=True,
            )


@pytest.mark.parametrize(
    'cost',
    [
        dict(type='ClassificationCost', weight=1.0),
        dict(type='BBoxL1Cost', weight=1.0, box_format='xyxy'),
        dict(type='FocalLossCost', binary_input=True),
        dict(type='IoUCost', iou_mode='iof'),
    ],
)
def test_unknown_costs_are_refused(cost):
    with pytest.raises(InputError, match=f'match_costs has {cost["type"]}'):
        BatchedHungarianAssigner([cost])


def generator_of(num_dn_queries=30, embed_dims=8, num_matching_queries=20, **options):
    return DenoisingQueryGenerator(
        num_classes=NUM_CLASSES,
        embed_dims=embed_dims,
        num_matching_queries=num_matching_queries,
        group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=num_dn_queries),
        **options,
    )


def denoise(generator, samples):
    """Makes the denoising queries of samples."""
    return generator(BoxTargets.collate(samples), sample_seeds(samples))


def loss_and_grads(head, inputs, samples, dn_meta):
    leaves = [x.clone().requires_grad_() for x in inputs]
    losses = head.loss_by_feat(
        *leaves,
        [sample.gt_instances for sample in samples],
        [sample.metainfo for sample in samples],
        dn_meta,
    )
    sum(losses.values()).sum().backward()
    return losses, [leaf.grad for leaf in leaves]


@pytest.mark.parametrize('counts', [(4, 4, 4), (4, 1, 7), (0, 3, 0), (0, 0, 0), (12, 25, 1)])
def test_losses_and_gradients_are_those_of_mmdet(counts):
    samples = ground_truth(counts)
    *_, dn_meta = denoise(generator_of(), samples)
    num_dn_queries = dn_meta['num_denoising_queries']
    scores, boxes = predictions(3, 3, num_dn_queries + 20)
    enc_scores, enc_boxes = (x[0] for x in predictions(1, 3, 20))
    inputs = [scores, boxes, enc_scores, enc_boxes]
    theirs, ours = heads()
    losses, grads = loss_and_grads(ours, inputs, samples, dn_meta)

    # mmdet needs denoising queries for every box; their values do not matter here.
    filler = predictions(3, 3, 2 * max(counts))
    filled = [
        torch.cat((f, x[:, :, num_dn_queries:]), 2) for f, x in zip(filler, inputs[:2], strict=True)
    ]
    one_group = dict(num_denoising_queries=2 * max(counts), num_denoising_groups=1)
    matched, matched_grads = loss_and_grads(theirs, [*filled, *inputs[2:]], samples, one_group)
    for name, value in matched.items():
        if 'dn_' not in name:
            torch.testing.assert_close(losses[name], value.reshape(()), rtol=1e-5, atol=1e-6)
    for grad, expected in zip(grads[2:], matched_grads[2:], strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-6)
    for grad, expected in zip(grads[:2], matched_grads[:2], strict=True):
        torch.testing.assert_close(
            grad[:, :, num_dn_queries:], expected[:, :, 2 * max(counts) :], rtol=1e-4, atol=1e-6
        )

    # mmdet has one number of groups for the batch. For an image alone it is that of ours.
    expected = dict.fromkeys((name for name in losses if 'dn_' in name), 0.0)
    layout = dn_meta['layout']
    for image, sample in enumerate(samples):
        length = int(layout.valid[image].sum())
        if not length:
            continue
        one = slice(image, image + 1)
        part = [
            torch.cat((x[:, one, :length], x[:, one, num_dn_queries:]), 2) for x in inputs[:2]
        ] + [x[one] for x in inputs[2:]]
        alone, alone_grads = loss_and_grads(
            theirs,
            part,
            [sample],
            dict(num_denoising_queries=length, num_denoising_groups=layout.groups[image]),
        )
        share = dn_meta['denoised'].counts[image] / sum(dn_meta['denoised'].counts)
        for name in expected:
            expected[name] = expected[name] + share * alone[name]
        for grad, alone_grad in zip(grads[:2], alone_grads[:2], strict=True):
            torch.testing.assert_close(
                grad[:, one, :length], share * alone_grad[:, :, :length], rtol=1e-4, atol=1e-6
            )
        assert not grads[0][:, image, length:num_dn_queries].any()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], torch.as_tensor(value).reshape(()))


def test_micro_batches_have_the_losses_of_the_whole_step():
    _, head = heads()
    samples = ground_truth((5, 1, 0))
    for seed, sample in enumerate(samples):
        sample.set_metainfo({SAMPLE_SEED: seed})
    generator = generator_of()
    scores, boxes = predictions(3, 3, 20)
    enc_scores, enc_boxes = (x[0] for x in predictions(1, 3, 20))
    dn_scores, dn_boxes = predictions(3, 3, 100)

    def losses(images):
        part = [samples[i] for i in images]
        *_, dn_meta = denoise(generator, part)
        n = dn_meta['num_denoising_queries']
        return head.loss_by_feat(
            torch.cat((dn_scores[:, images, :n], scores[:, images]), 2),
            torch.cat((dn_boxes[:, images, :n], boxes[:, images]), 2),
            enc_scores[images],
            enc_boxes[images],
            [sample.gt_instances for sample in part],
            [sample.metainfo for sample in part],
            dn_meta,
        )

    whole = losses([0, 1, 2])
    announce_step([samples[:1], samples[1:2], samples[2:]])
    parts = [losses([0]), losses([1]), losses([2])]
    for name, value in whole.items():
        mean = sum(part[name] for part in parts) / 3
        torch.testing.assert_close(mean, value, rtol=1e-5, atol=1e-6)


def test_denoising_queries_surround_their_boxes():
    torch.manual_seed(0)
    samples = ground_truth((3, 2, 0))
    middle = torch.tensor([0.35, 0.35, 0.65, 0.65])
    for sample in samples:
        height, width = sample.img_shape
        sample.gt_instances.bboxes[:] = middle * torch.tensor([width, height, width, height])
    ours = generator_of(300, num_matching_queries=4, label_noise_scale=1e-6)
    content, logits, _, meta = denoise(ours, samples)
    layout = meta['layout']
    assert layout.groups == (100, 150, 1)
    assert content.shape == (3, 600, 8)
    assert layout.valid.sum(1).tolist() == [600, 600, 0]
    boxes = bbox_cxcywh_to_xyxy(logits.sigmoid())
    for image, count in ((0, 3), (1, 2)):
        placed = boxes[image].unflatten(0, (-1, 2, count))
        queries = content[image].unflatten(0, (-1, 2, count))
        for index, label in enumerate(samples[image].gt_instances.labels):
            positive, negative = ((placed[:, :, index] - middle).abs() / 0.3).unbind(1)
            assert (positive <= 0.5 + 1e-3).all() and positive.max() > 0.45
            assert (negative <= 1.0 + 1e-3).all() and negative.max() > 0.95
            # Corners that pass each other leave a box with an area of 0, closer to the middle.
            assert (negative >= 0.5 - 1e-3).float().mean() > 0.5
            expected = ours.label_embedding.weight[label].expand_as(queries[:, :, index])
            assert torch.equal(queries[:, :, index], expected)
    assert not content[2].any() and not logits[2].any()


def test_attention_mask_of_an_image_alone_is_that_of_mmdet():
    theirs = CdnQueryGenerator(
        num_classes=NUM_CLASSES,
        embed_dims=8,
        num_matching_queries=4,
        group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=10),
    )
    ours = generator_of(10, num_matching_queries=4)
    samples = ground_truth((3, 2, 0))
    mask = denoise(ours, samples)[2]
    for image, sample in enumerate(samples):
        expected = theirs([sample])[2]
        kept = torch.zeros(mask.shape[1], dtype=torch.bool)
        kept[: len(expected) - 4] = True
        kept[-4:] = True
        assert torch.equal(mask[image][kept][:, kept], expected)
        assert mask[image][kept][:, ~kept].all()


def test_denoising_queries_do_not_depend_on_batch_mates():
    generator = generator_of()
    samples = ground_truth((3, 1, 12))
    for seed, sample in enumerate(samples):
        sample.set_metainfo({SAMPLE_SEED: 100 + seed})
    content, logits, _, meta = denoise(generator, samples)
    for image, sample in enumerate(samples):
        torch.rand(7)  # the global random state does not matter
        alone = denoise(generator, [sample])
        length = alone[3]['num_denoising_queries']
        assert torch.equal(alone[0][0], content[image, :length])
        assert torch.equal(alone[1][0], logits[image, :length])
        assert not content[image, length:].any()
    other = samples[0].clone()
    other.set_metainfo({SAMPLE_SEED: 5})
    assert not torch.equal(denoise(generator, [other])[1], denoise(generator, [samples[0]])[1])


def test_label_noise_changes_the_stated_share():
    torch.manual_seed(0)
    generator = DenoisingQueryGenerator(
        num_classes=50,
        embed_dims=4,
        num_matching_queries=4,
        label_noise_scale=0.5,
        group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=1),
    )
    labels = torch.full((1, 20000), 7)
    noisy = generator._noisy_labels(labels, torch.rand(1, 20000, 2))
    assert (noisy != labels).float().mean() == pytest.approx(0.25 * 49 / 50, abs=0.01)
    assert set(noisy.unique().tolist()) == set(range(50))


def test_crowded_images_are_sampled():
    torch.manual_seed(0)
    samples = ground_truth((40, 3, 0))
    *_, meta = denoise(generator_of(10), samples)
    assert meta['denoised'].counts == (10, 3, 0)
    assert meta['num_denoising_queries'] == 20
    every = BoxTargets.collate(samples).boxes[0]
    chosen = meta['denoised'].boxes[0]
    places = (chosen[:, None] == every).all(-1).nonzero()
    assert len(places) == 10 and len(places[:, 1].unique()) == 10
    *_, meta = denoise(generator_of(10, max_boxes=2), samples)
    assert meta['denoised'].counts == (2, 2, 0)
    with pytest.raises(ValueError, match=r'dn_cfg\.max_boxes must be at least 1, got 0'):
        generator_of(10, max_boxes=0)


def test_other_assigners_and_losses_are_refused():
    cfg = detector_cfg()
    cfg['bbox_head'].pop('type')
    shared = dict(share_pred_layer=False, num_pred_layer=3, as_two_stage=True)
    theirs = dict(assigner=dict(type='HungarianAssigner', match_costs=MATCH_COSTS))
    with pytest.raises(InputError, match='got HungarianAssigner'):
        BatchedDINOHead(**cfg['bbox_head'], **shared, train_cfg=theirs)
    cfg['bbox_head']['loss_cls'] = dict(type='QualityFocalLoss')
    with pytest.raises(InputError, match='got QualityFocalLoss'):
        BatchedDINOHead(**cfg['bbox_head'], **shared, train_cfg=cfg['train_cfg'])
    cfg['bbox_head']['loss_cls'] = dict(type='FocalLoss', activated=True)
    with pytest.raises(InputError, match='got FocalLoss with activated=True'):
        BatchedDINOHead(**cfg['bbox_head'], **shared, train_cfg=cfg['train_cfg'])


def test_query_attention_is_that_of_mmcv():
    theirs = MultiheadAttention(embed_dims=16, num_heads=4, batch_first=True)
    ours = QuerySelfAttention(embed_dims=16, num_heads=4, batch_first=True)
    ours.load_state_dict(theirs.state_dict())
    query, pos = torch.randn(2, 3, 7, 16)
    mask = torch.rand(7, 7) < 0.3
    mask.fill_diagonal_(False)
    expected = theirs(query, query, query, query_pos=pos, key_pos=pos, attn_mask=mask)
    torch.testing.assert_close(ours(query, pos, additive_mask(mask, query)), expected)
    per_image = ours(query, pos, additive_mask(mask.expand(3, 7, 7), query))
    torch.testing.assert_close(per_image, expected)
    other = mask.expand(3, 7, 7).clone()
    other[1] = ~torch.eye(7, dtype=torch.bool)
    changed = ours(query, pos, additive_mask(other, query))
    torch.testing.assert_close(changed[[0, 2]], expected[[0, 2]])
    assert not torch.allclose(changed[1], expected[1])
