"""Masks of queries: embedding, losses, costs of matching and predictions against slow versions."""

import copy

import numpy as np
import pytest
import torch
from mmdet.models.task_modules.assigners import CrossEntropyLossCost, DiceCost
from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask

from mmdet_dinov2.checkpoint.load_detector import load_for_fine_tuning
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.layers import PyramidLayout
from mmdet_dinov2.models import BatchedHungarianAssigner, mask_prediction, mask_supervision
from mmdet_dinov2.models.mask_head import MaskHead
from mmdet_dinov2.models.mask_prediction import encode_window, predict_masks
from mmdet_dinov2.models.mask_queries import MaskQueries, PixelEmbedding, cell_centers
from mmdet_dinov2.models.mask_supervision import MaskPairs, MaskSupervision
from mmdet_dinov2.models.mask_targets import MaskTargets
from mmdet_dinov2.models.targets import BoxTargets
from mmdet_dinov2.sample_meta import SAMPLE_SEED, announce_step

from ..reference.masks import logit_at, mask_losses
from ..tiny import data_sample, detector_cfg, pad_batch, randomize, tiny_detector, total_loss

MASK_COSTS = [
    dict(type='CrossEntropyLossCost', weight=5.0, use_sigmoid=True),
    dict(type='DiceCost', weight=5.0, pred_act=True, eps=1.0),
]
SIZES = [(60, 80), (97, 41), (50, 50)]
# Of levels with strides of 8 and 16.
STRIDES = (8, 16)


def masked_sample(height, width, num_boxes, seed=0):
    sample = data_sample(height, width, num_boxes, masks=True)
    sample.set_metainfo({SAMPLE_SEED: seed})
    return sample


def seg_cfg(costs=True, **mask_head):
    cfg = detector_cfg()
    cfg['mask_head'] = {'mask_dims': 8, **mask_head}
    if costs:
        cfg['train_cfg']['assigner']['match_costs'] += copy.deepcopy(MASK_COSTS)
    return cfg


def seg_detector(**kwargs):
    model = MODELS.build(seg_cfg(**kwargs))
    model.init_weights()
    return randomize(model, std=0.1)


def images(sizes=SIZES):
    return [torch.rand(3, *size) * 255 for size in sizes]


def preprocessed(model, images, samples):
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples))
    return data['inputs'], data['data_samples']


def losses_of(model, images, samples):
    return model.loss(*preprocessed(model.train(), images, copy.deepcopy(samples)))


# ------------------------------------------------------------------- embedding


@pytest.mark.parametrize('num_upsamples', [0, 1, 2])
def test_embedding_of_an_image_does_not_depend_on_batch_mates(num_upsamples):
    head = randomize(MaskHead(16, 8, num_upsamples))
    layout = PyramidLayout(SIZES, STRIDES, torch.device('cpu'))
    feat, memory = torch.randn(2, sum(layout.lengths), 16)
    together = head(feat, memory, layout)
    scale = 2**num_upsamples
    assert together.grids[1] == (13 * scale, 6 * scale)
    parts = zip(SIZES, feat.split(layout.lengths), memory.split(layout.lengths), strict=True)
    for image, (size, *streams) in enumerate(parts):
        alone = head(*streams, PyramidLayout([size], STRIDES, torch.device('cpu')))
        torch.testing.assert_close(together.of_images()[image], alone.stream, rtol=0, atol=1e-5)
        torch.testing.assert_close(together.extents[image], alone.extents[0])


def test_parts_of_a_cell_lie_where_the_cell_lies():
    head = randomize(MaskHead(16, 8, 2))
    layout = PyramidLayout([(40, 72)], STRIDES, torch.device('cpu'))
    feat, memory = torch.randn(2, sum(layout.lengths), 16)
    with torch.no_grad():
        head.depthwise.weight.zero_()
        head.depthwise.weight[:, :, 1, 1] = 1  # no neighbours
    before = head(feat, memory, layout).stream.view(20, 36, 8)
    feat[2 * 9 + 5] += 1  # third row, sixth column
    after = head(feat, memory, layout).stream.view(20, 36, 8)
    changed = (before != after).any(-1).nonzero()
    assert changed.amin(0).tolist() == [8, 20] and changed.amax(0).tolist() == [11, 23]
    assert len(changed) == 16


@pytest.mark.parametrize(
    'argument',
    [
        dict(num_upsamples=-1),
        dict(num_points=0),
        dict(oversample_ratio=0.5),
        dict(importance_sample_ratio=1.5),
        dict(mask_dims=0),
        dict(loss_mask=dict(type='CrossEntropyLoss', use_sigmoid=False)),
        dict(loss_dice=dict(type='CrossEntropyLoss', use_sigmoid=True)),
    ],
    ids=lambda argument: next(iter(argument)),
)
def test_arguments_out_of_range(argument):
    with pytest.raises(InputError, match=next(iter(argument))):
        MaskHead(16, **{'mask_dims': 8, **argument})


# --------------------------------------------------------------------- targets


def test_points_come_from_the_seed_and_bitmaps_are_read_there():
    samples = [masked_sample(*size, n) for size, n in zip(SIZES, (3, 0, 2), strict=True)]
    first, second = (
        MaskTargets.collate(samples, seeds, (50, 20, 30), torch.device('cpu'))
        for seeds in ((1, 2, 3), (1, 5, 3))
    )
    assert torch.equal(first.points[0], second.points[0])
    assert not torch.equal(first.points[1], second.points[1])
    for sample, points, inside in zip(samples, first.points, first.inside, strict=True):
        height, width = sample.img_shape
        expected = [
            [mask[int(y * height), int(x * width)] for x, y in points.tolist()]
            for mask in sample.gt_instances.masks.masks
        ]
        assert inside.int().tolist() == expected
        assert points.min() >= 0 and points.max() < 1


def test_polygons_are_as_bitmaps():
    sample = masked_sample(40, 60, 3)
    masks = np.zeros((3, 40, 60), np.uint8)
    masks[0, 5:20, 10:30] = masks[0, 25:30, 40:55] = masks[1, 0:40, 0:60] = 1
    box = [np.array([10, 5, 30, 5, 30, 20, 10, 20.0]), np.array([40, 25, 55, 25, 55, 30, 40, 30.0])]
    whole = [np.array([0, 0, 60, 0, 60, 40, 0, 40.0])]
    sample.gt_instances.masks = BitmapMasks(masks, 40, 60)
    other = copy.deepcopy(sample)
    other.gt_instances.masks = PolygonMasks([box, whole, [np.zeros(6)]], 40, 60)
    got, expected = (
        MaskTargets.collate([s], [7], [400], torch.device('cpu')) for s in (other, sample)
    )
    assert torch.equal(got.inside[0], expected.inside[0])
    assert got.known[0].tolist() == expected.known[0].tolist() == [True, True, False]


def test_samples_without_masks_are_an_error():
    sample = data_sample(40, 60, 2)
    with pytest.raises(InputError, match='came with none; set with_mask=True in LoadAnnotations'):
        MaskTargets.collate([sample], [0], [5], torch.device('cpu'))
    sample.gt_instances.masks = BitmapMasks(np.zeros((2, 30, 60), np.uint8), 30, 60)
    with pytest.raises(InputError, match='have 30 x 60 pixels, but the image has 40 x 60'):
        MaskTargets.collate([sample], [0], [5], torch.device('cpu'))


# ---------------------------------------------------------------------- losses


def supervision(counts=(3, 0, 2), dtype=torch.float64, layers=2, **arguments):
    """Random queries and pixels of three images, and what their masks are compared with."""
    torch.manual_seed(4)
    head = randomize(MaskHead(16, 8, **{'num_points': 12, **arguments})).to(dtype)
    layout = PyramidLayout(SIZES, (4,), torch.device('cpu'))
    pixels = PixelEmbedding(
        torch.randn(sum(layout.lengths), 8, dtype=dtype),
        layout.runs,
        layout.extents[:, 0],
    )
    samples = [masked_sample(*size, n) for size, n in zip(SIZES, counts, strict=True)]
    states = torch.randn(layers, 3, 10, 16, dtype=dtype)
    boxes = torch.rand(layers, 3, 10, 4, dtype=dtype) * 0.5 + 0.2
    return head, pixels, samples, states, boxes


def random_pairs(counts, rows=2):
    counts = tuple(counts)
    total = sum(counts)
    return MaskPairs(
        torch.arange(rows)[:, None].expand(rows, total),
        torch.cat([torch.stack([torch.randperm(10)[:n] for _ in range(rows)]) for n in counts], 1),
        torch.cat([torch.arange(n) for n in counts]).expand(rows, -1),
        torch.rand(rows, total),
        counts,
    )


def slow_losses(head, pixels, targets, states, boxes, pairs, choose):
    """Losses of each row; ``choose`` takes all logits of a mask and returns indices."""
    image_of = [image for image, n in enumerate(pairs.counts) for _ in range(n)]
    embeddings = [
        cells.view(*grid, -1).detach().numpy()
        for cells, grid in zip(pixels.of_images(), pixels.grids, strict=True)
    ]
    result = torch.zeros(len(pairs.layer), 2, dtype=torch.float64)
    for row in range(len(pairs.layer)):
        for pair, image in enumerate(image_of):
            layer, query, target = (
                int(values[row, pair]) for values in (pairs.layer, pairs.query, pairs.target)
            )
            output = head.query_embed(states[layer, image, query]).detach().numpy()
            box = boxes[layer, image, query].tolist()
            logits = [
                logit_at(
                    embeddings[image], pixels.extents[image].tolist(),
                    output[:8], output[8:], box, point,
                )
                for point in targets.points[image].tolist()
            ]  # fmt: skip
            index = choose(logits, image)
            inside = targets.inside[image][target].tolist()
            losses = mask_losses([logits[i] for i in index], [inside[i] for i in index])
            known = bool(targets.known[image][target])
            result[row] += 5 * known * pairs.weight[row, pair] * torch.tensor(losses)
    return result


def test_losses_are_those_of_the_reference():
    head, pixels, samples, states, boxes = supervision()
    samples[0].gt_instances.masks.masks[1] = 0  # not known
    targets = head.collate(samples, [1, 2, 3], pixels)
    # 12 points: 3 random ones, and 9 of 27
    assert targets.points[0].shape == (30, 2)

    def choose(logits, image):
        uncertain = sorted(range(3, 30), key=lambda i: abs(logits[i]))[:9]
        return [0, 1, 2, *uncertain]

    sets = random_pairs((2, 0, 2)), random_pairs((3, 0, 1), rows=1)
    got = MaskSupervision(head, pixels, targets, states).losses(boxes, sets)
    for pairs, losses in zip(sets, got, strict=True):
        expected = slow_losses(head, pixels, targets, states, boxes, pairs, choose)
        result = torch.stack((losses['loss_mask'], losses['loss_dice']), 1)
        torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)


def test_losses_estimate_those_of_every_pixel():
    head, pixels, samples, states, boxes = supervision(
        (1, 0, 0), num_points=400, importance_sample_ratio=0.0
    )
    pairs = random_pairs((1, 0, 0), rows=1)
    drawn = []
    for seed in range(30):
        targets = head.collate(samples, [seed, 2, 3], pixels)
        (losses,) = MaskSupervision(head, pixels, targets, states).losses(boxes, [pairs])
        drawn.append(torch.cat((losses['loss_mask'], losses['loss_dice'])).detach())
    # Every pixel, in four parts.
    height, width = SIZES[0]
    y, x = torch.meshgrid(
        (torch.arange(2 * height) + 0.5) / (2 * height),
        (torch.arange(2 * width) + 0.5) / (2 * width),
        indexing='ij',
    )
    inside = torch.from_numpy(samples[0].gt_instances.masks.masks).bool()
    inside = inside.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)
    every = MaskTargets(
        [torch.stack((x, y), -1).view(-1, 2), *targets.points[1:]],
        [inside, *targets.inside[1:]],
        targets.known,
    )
    expected = slow_losses(
        head, pixels, every, states, boxes, pairs, lambda logits, image: range(len(logits))
    )[0]
    drawn = torch.stack(drawn)
    error = (drawn.mean(0) - expected).abs()
    assert (error < 3.5 * drawn.std(0) / 30**0.5 + 2e-3 * expected).all(), (drawn.mean(0), expected)


def test_gradients():
    head, pixels, samples, states, boxes = supervision((2, 0, 0), num_points=5, layers=1)
    # All candidates are chosen, as their order must not depend on the numerical difference.
    head.losses.oversample_ratio = 1.0
    targets = head.collate(samples, [1, 2, 3], pixels)
    pairs = random_pairs((2, 0, 0), rows=1)

    def loss(stream, states):
        changed = PixelEmbedding(stream, pixels.runs, pixels.extents)
        (losses,) = MaskSupervision(head, changed, targets, states).losses(boxes, [pairs])
        return (losses['loss_mask'] + losses['loss_dice']).sum()

    inputs = [pixels.stream.requires_grad_(), states.requires_grad_()]
    gradients = torch.autograd.grad(loss(*inputs), inputs)
    # mmdet's cross-entropy rounds to fp32, so the steps are not smaller.
    for index, gradient in enumerate(gradients):
        for seed in range(3):
            step = 1e-3 * torch.randn(gradient.shape, generator=torch.Generator().manual_seed(seed))
            with torch.no_grad():
                ends = [loss(*inputs[:index], inputs[index] + sign * step, *inputs[index + 1 :])
                        for sign in (1, -1)]  # fmt: skip
            expected = (ends[0] - ends[1]) / 2
            assert abs((gradient * step).sum() - expected) < 1e-3 * abs(expected) + 2e-6


@pytest.mark.parametrize('naive', [True, False])
@pytest.mark.parametrize('limit', [2**18, 30])
def test_costs_of_matching_are_those_of_mmdet(naive, limit, monkeypatch):
    monkeypatch.setattr(mask_supervision, '_LOGITS_IN_CACHE', limit)
    costs = [MASK_COSTS[0], {**MASK_COSTS[1], 'naive_dice': naive}]
    box_costs = detector_cfg()['train_cfg']['assigner']['match_costs']
    assigner = BatchedHungarianAssigner(box_costs + costs)
    head, pixels, samples, states, boxes = supervision(dtype=torch.float32)
    samples[2].gt_instances.masks.masks[0] = 0  # not known
    targets = head.collate(samples, [1, 2, 3], pixels)
    found = list(
        MaskSupervision(head, pixels, targets, states).match_costs(boxes, 4, assigner.mask_cost)
    )
    assert [cost.shape for cost in found] == [(2, 3, 6), (2, 0, 6), (2, 2, 6)]
    theirs = [
        CrossEntropyLossCost(weight=5.0, use_sigmoid=True),
        DiceCost(weight=5.0, pred_act=True, eps=1.0, naive_dice=naive),
    ]
    for image in (0, 2):
        features = head.sample(pixels, targets.points)[image][:12]
        for layer in range(2):
            queries = head.queries(states[layer, image, 4:], boxes[layer, image, 4:])
            logits = queries.vectors @ features.T + queries.of_place(targets.points[image][:12])
            predicted = InstanceData(masks=logits)
            truth = InstanceData(masks=targets.inside[image][:, :12].float())
            expected = sum(cost(predicted, truth) for cost in theirs).T.clone()
            if image == 2:
                expected[0] = 0
            torch.testing.assert_close(found[image][layer], expected, rtol=1e-4, atol=1e-4)


# -------------------------------------------------------------------- detector


def test_without_a_mask_head_nothing_changes():
    cfg = detector_cfg()
    model = MODELS.build(copy.deepcopy(cfg))
    assert not [name for name in model.state_dict() if 'mask' in name]
    assert not model.with_mask and model.mask_head is None
    with_masks = MODELS.build(seg_cfg())
    extra = set(with_masks.state_dict()) - set(model.state_dict())
    assert extra and all(name.startswith('mask_head.') for name in extra)
    assert with_masks.with_mask
    samples = [data_sample(60, 80, 2)]
    torch.manual_seed(1)
    losses = losses_of(randomize(model, 0.1), [torch.rand(3, 60, 80)], samples)
    assert not [name for name in losses if 'mask' in name or 'dice' in name]
    found = model.eval().predict(torch.rand(1, 3, 60, 80), samples)[0].pred_instances
    assert set(found.keys()) == {'bboxes', 'scores', 'labels'}


def test_losses_of_masks_leave_those_of_boxes_as_they_are():
    """With the same matches, which costs of masks would change."""
    samples = [masked_sample(*size, n, i) for i, (size, n) in enumerate(zip(SIZES, (3, 0, 2)))]
    model = seg_detector(costs=False)
    plain = MODELS.build(detector_cfg())
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith('mask_head')}
    plain.load_state_dict(weights)
    pictures = images()
    with_masks, without = (losses_of(m, pictures, samples) for m in (model, plain))
    for name, value in without.items():
        torch.testing.assert_close(with_masks[name], value, rtol=0, atol=0)
    new = sorted(set(with_masks) - set(without))
    assert new == sorted(
        f'{layer}{dn}loss_{kind}'
        for layer in ('d0.', '') for dn in ('dn_', '') for kind in ('mask', 'dice')
    )  # fmt: skip
    assert all(with_masks[name] > 0 for name in new)


def test_losses_do_not_depend_on_how_a_step_is_divided():
    counts = (3, 1, 2)
    samples = [masked_sample(*size, n, i) for i, (size, n) in enumerate(zip(SIZES, counts))]
    pictures = images()
    model = seg_detector(importance_sample_ratio=0.5)
    gradients = []
    for parts in ([[0, 1, 2]], [[2], [0, 1]]):
        divided = [[copy.deepcopy(samples[i]) for i in part] for part in parts]
        announce_step(divided)
        model.zero_grad()
        for part, of_part in zip(parts, divided, strict=True):
            losses = losses_of(model, [pictures[i] for i in part], of_part)
            (total_loss(losses) / len(parts)).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert any(name.startswith('mask_head.') for name in gradients[0])
    for name, grad in gradients[0].items():
        other = gradients[1][name]
        assert (grad - other).norm() <= 1e-4 * grad.norm() + 1e-7, name


def test_groups_of_queries_are_as_detectors_of_their_own():
    """The losses of two groups are the means of those of two detectors with one group each."""
    both = MODELS.build({**seg_cfg(), 'num_query_groups': 2})
    both.init_weights()
    randomize(both, 0.1)
    alone = [MODELS.build(seg_cfg()) for _ in range(2)]
    for model in alone:
        model.load_state_dict(both.state_dict(), strict=False)
    (group,) = both.query_groups
    for name in ('query_embedding', 'memory_trans_fc', 'memory_trans_norm'):
        getattr(alone[1], name).load_state_dict(getattr(group, name).state_dict())
    alone[1].bbox_head.cls_branches[-1].load_state_dict(group.cls_branch.state_dict())
    alone[1].bbox_head.reg_branches[-1].load_state_dict(group.reg_branch.state_dict())
    samples = [masked_sample(*size, n, i) for i, (size, n) in enumerate(zip(SIZES, (3, 0, 2)))]
    pictures = images()
    found, first, second = (losses_of(model, pictures, samples) for model in (both, *alone))
    for name in ('loss_mask', 'd0.loss_mask', 'loss_dice', 'd0.loss_dice'):
        assert abs(first[name] - second[name]) > 1e-3
        expected = (first[name] + second[name]) / 2
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5)


def test_every_parameter_has_a_gradient_without_boxes():
    """Otherwise distributed training would wait for it."""
    model = seg_detector()
    samples = [masked_sample(*size, 0) for size in SIZES]
    losses = losses_of(model, images(), samples)
    assert losses['loss_mask'] == losses['dn_loss_dice'] == 0
    total_loss(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.mask_head.parameters())


def test_boxes_without_masks_still_teach_boxes():
    model = seg_detector()
    samples = [masked_sample(*size, 2, i) for i, size in enumerate(SIZES)]
    for sample in samples:
        sample.gt_instances.masks.masks[:] = 0
    losses = losses_of(model, images(), samples)
    assert losses['loss_mask'] == losses['d0.dn_loss_dice'] == 0 < losses['loss_bbox']


def test_denoising_queries_of_chosen_boxes_have_their_own_masks():
    """Of more boxes than denoising queries, some are chosen; their masks move with them."""
    model = seg_detector().train()
    sample = masked_sample(60, 80, 30, seed=5)
    meta = model.dn_query_generator(BoxTargets.collate([sample]), [5])[3]
    chosen = meta['denoised'].chosen[0]
    assert len(chosen) == 10 and sorted(chosen.tolist()) != list(range(10))
    assert torch.equal(meta['denoised'].boxes[0], meta['targets'].boxes[0][chosen])
    picture = [torch.rand(3, 60, 80)]
    sample.gt_instances.masks.masks[chosen.numpy()] = 0  # not known
    losses = losses_of(model, picture, [sample])
    assert losses['dn_loss_mask'] == losses['d0.dn_loss_dice'] == 0 < losses['loss_mask']


def test_costs_of_masks_need_a_mask_head():
    cfg = seg_cfg()
    del cfg['mask_head']
    with pytest.raises(InputError, match=r'set model\.mask_head=dict\(\)'):
        MODELS.build(cfg)
    with pytest.raises(InputError, match='costs of masks only'):
        BatchedHungarianAssigner(MASK_COSTS)
    with pytest.raises(InputError, match='use_sigmoid=True'):
        BatchedHungarianAssigner([dict(type='CrossEntropyLossCost', use_sigmoid=False)])


def test_costs_of_masks_decide_between_equal_boxes():
    model = seg_detector(num_points=200)
    matched = []
    assign = model.bbox_head.assigner.assign_batch

    def note(scores, boxes, targets, mask_costs=()):
        mask_costs = list(mask_costs)
        matched.append((assign(scores, boxes, targets), assign(scores, boxes, targets, mask_costs)))
        return matched[-1][1]

    model.bbox_head.assigner.assign_batch = note
    samples = [masked_sample(*size, 6, i) for i, size in enumerate(SIZES)]
    losses_of(model, images(), samples)
    ((without, with_masks),) = matched
    proposals = without.layer == 0
    assert torch.equal(without.query[proposals], with_masks.query[proposals])
    assert not torch.equal(without.query, with_masks.query)


def test_a_box_detector_is_a_start():
    source = tiny_detector()
    model = seg_detector()
    classes = ('a', 'b', 'c')
    report = load_for_fine_tuning(model, source.state_dict(), 'boxes.pth', classes, classes)
    assert report.missing and all(name.startswith('mask_head.') for name in report.missing)
    assert not report.left_out and 'mask_head.neck_proj.weight' in str(report)
    assert f'{len(report.missing)} missing' in str(report)


def test_masks_learn_in_bf16():
    model = seg_detector()
    samples = [masked_sample(*size, 2, i) for i, size in enumerate(SIZES)]
    inputs = preprocessed(model.train(), images(), samples)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = model.loss(*inputs)
    assert losses['loss_mask'].dtype == torch.float32 and losses['loss_mask'].isfinite()
    total_loss(losses).backward()
    assert all(p.grad.isfinite().all() for p in model.mask_head.parameters())


# ----------------------------------------------------------------- predictions


@pytest.mark.parametrize('seed', range(6))
def test_run_lengths_of_a_window_are_those_of_coco(seed):
    rng = np.random.default_rng(seed)
    height, width = 11 + seed, 9
    top, left = (0, 0) if seed < 3 else (3, 2)
    window = rng.random((height - top - (seed == 4), width - left)) < (0.5, 0, 1, 1, 0.8, 0.3)[seed]
    whole = np.zeros((height, width), np.uint8)
    whole[top : top + window.shape[0], left : left + window.shape[1]] = window
    expected = coco_mask.encode(np.asfortranarray(whole))
    assert encode_window(window, top, left, (height, width)) == expected


@pytest.mark.parametrize('at_once', [2**22, 700, 1])
def test_masks_are_those_of_every_pixel(at_once, monkeypatch):
    monkeypatch.setattr(mask_prediction, '_PIXELS_AT_ONCE', at_once)
    torch.manual_seed(3)
    queries = MaskQueries(torch.randn(5, 8), torch.randn(5, 6), torch.rand(5, 4) * 0.4 + 0.3)
    # An image of 46 x 60 pixels on a grid with a stride of 4, shown in 1.5 of its size.
    grid, extent = (12, 15), torch.tensor([1, 46 / 48])
    logits = queries.vectors @ torch.randn(8, 12 * 15)
    logits = (logits + queries.of_place(cell_centers(grid, extent))).view(5, *grid)
    pixels = torch.tensor([90.0, 69.0]) / extent
    boxes = torch.tensor(
        [[5.2, 3.1, 40.0, 33.3], [0, 0, 90, 69], [80, 60, 90, 69], [30, 30, 30, 30], [1, 9, 8, 9.5]]
    )
    got = predict_masks(logits.__getitem__, grid, pixels, boxes, (69, 90))
    for mask, of_cells, (x1, y1, x2, y2) in zip(got, logits.numpy(), boxes.tolist(), strict=True):
        mask = coco_mask.decode(mask)
        assert mask.shape == (69, 90)
        expected = np.zeros_like(mask)
        for y in range(int(y1), max(int(np.ceil(y2)), int(y1) + 1)):
            for x in range(int(x1), max(int(np.ceil(x2)), int(x1) + 1)):
                point = (x + 0.5) / 90, (y + 0.5) / 69
                logit = logit_at(
                    of_cells[..., None], (1, 46 / 48), np.ones(1), np.zeros(6), (0.5, 0.5, 1, 1),
                    point,
                )  # fmt: skip
                expected[y, x] = logit > 0
        assert (mask == expected).mean() > 0.9995, np.argwhere(mask != expected)


def test_masks_do_not_depend_on_batch_mates():
    model = seg_detector().eval()
    sizes = [(60, 80), (97, 41), (50, 50)]
    pictures = [torch.randn(3, *size) for size in sizes]
    samples = [data_sample(*size) for size in sizes]
    with torch.no_grad():
        together = model.predict(pad_batch(pictures, (100, 84)), copy.deepcopy(samples))
        for picture, sample, mixed in zip(pictures, samples, together, strict=True):
            alone = model.predict(picture[None], [copy.deepcopy(sample)])[0].pred_instances
            mixed = mixed.pred_instances
            torch.testing.assert_close(alone.bboxes, mixed.bboxes, rtol=0, atol=1e-3)
            first, second = (
                np.stack([coco_mask.decode(mask) for mask in found.masks])
                for found in (alone, mixed)
            )
            assert first.shape == (20, *sample.ori_shape) and first.any()
            assert (first != second).mean() < 1e-4


def test_masks_have_the_size_of_the_picture():
    model = seg_detector().eval()
    sample = data_sample(60, 80)
    sample.set_metainfo(dict(ori_shape=(375, 500), scale_factor=(80 / 500, 60 / 375)))
    with torch.no_grad():
        picture = torch.randn(1, 3, 60, 80)
        found = model.predict(picture, [copy.deepcopy(sample)])[0].pred_instances
        small = model.predict(picture, [copy.deepcopy(sample)], rescale=False)[0].pred_instances
    assert 'queries' not in found
    masks = [coco_mask.decode(mask) for mask in found.masks]
    assert {mask.shape for mask in masks} == {(375, 500)}
    for mask, (x1, y1, x2, y2) in zip(masks, found.bboxes.tolist(), strict=True):
        if mask.any():
            rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert rows[0] >= int(y1) and rows[-1] < y2 + 1
            assert cols[0] >= int(x1) and cols[-1] < x2 + 1
    assert {coco_mask.decode(mask).shape for mask in small.masks} == {(60, 80)}
    # Detections can be chosen as always.
    assert len(found[found.scores > found.scores.median()].masks) < 20
