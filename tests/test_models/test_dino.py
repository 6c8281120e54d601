import copy

import pytest
import torch
from mmdet.models.layers import DeformableDetrTransformerEncoder
from mmdet.registry import MODELS

from mmdet_dinov2.errors import InputError
from mmdet_dinov2.layers import PyramidLayout
from mmdet_dinov2.models.dino_encoder import PaddingAwareEncoder
from mmdet_dinov2.models.query_selection import best_proposals, box_proposals
from mmdet_dinov2.models.targets import BoxTargets

from ..tiny import (
    SHAPES,
    data_sample,
    detector_cfg,
    pad_batch,
    randomize,
    tiny_detector,
    total_loss,
)

SIZES = [(75, 52), (130, 190)]
CANVAS = (230, 340)


@pytest.fixture(scope='module')
def detector():
    torch.manual_seed(0)
    return tiny_detector().eval()


@pytest.fixture
def images():
    return [torch.randn(3, *size) for size in SIZES]


@torch.no_grad()
def test_pyramid_does_not_depend_on_batch_mates(detector, images):
    batched = detector.extract_feat(pad_batch(images, CANVAS), SIZES)
    for i, image in enumerate(images):
        for lvl, alone in enumerate(detector.extract_feat(image[None])):
            rows, cols = alone.shape[-2:]
            got = batched[lvl][i]
            torch.testing.assert_close(got[:, :rows, :cols], alone[0], rtol=1e-4, atol=1e-4)
            assert got[:, rows:].count_nonzero() == got[:, :, cols:].count_nonzero() == 0


@torch.no_grad()
@pytest.mark.parametrize(
    'options', [{}, dict(num_queries=400), *SHAPES.values()], ids=['', 'many queries', *SHAPES]
)
def test_predictions_do_not_depend_on_batch_mates(images, options):
    """400 queries are more than the proposals of the small image, alone and in the batch."""
    torch.manual_seed(0)
    detector = tiny_detector(**options).eval()
    batched = detector.predict(pad_batch(images, CANVAS), [data_sample(*s) for s in SIZES])
    for image, sample in zip(images, batched, strict=True):
        (alone,) = detector.predict(image[None], [data_sample(*image.shape[1:])])
        a, b = alone.pred_instances, sample.pred_instances
        torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=1e-4)
        torch.testing.assert_close(a.bboxes, b.bboxes, rtol=1e-4, atol=1e-4 * max(CANVAS))
        assert torch.equal(a.labels, b.labels)
        assert a.bboxes.std(0).min() > 1  # the boxes differ, or the test could not fail


@torch.no_grad()
def test_the_padding_that_the_batch_came_with_does_not_matter(detector, images):
    samples = [data_sample(*SIZES[0])]
    a = detector.predict(images[0][None], samples)[0].pred_instances.clone()
    b = detector.predict(pad_batch(images[:1], (300, 290)), samples)[0].pred_instances
    torch.testing.assert_close(a.bboxes, b.bboxes, rtol=1e-4, atol=1e-2)


@torch.no_grad()
def test_no_proposal_lies_in_padding(detector, images):
    feats = detector.extract_feat(pad_batch(images, CANVAS), SIZES)
    inputs, _ = detector.pre_transformer(feats, SIZES)
    layout = inputs['layout']
    assert inputs['feat'].shape[0] == (11 * 8 + 6 * 4 + 3 * 2 + 2) + (
        19 * 28 + 10 * 14 + 5 * 7 + 12
    )
    proposals, usable = box_proposals(layout)
    boxes = proposals.sigmoid()[usable]
    assert ((boxes > 0.01) & (boxes < 0.99)).all()
    # A proposal of stride s lies at the centre of its cell, in pixels of the image.
    first = proposals[0].sigmoid()[:2] * torch.tensor([SIZES[0][1], SIZES[0][0]])
    assert usable[0]
    torch.testing.assert_close(first, torch.tensor([3.5, 3.5]), rtol=1e-4, atol=1e-4)


@pytest.fixture
def layout():
    """Four cells and one cell."""
    return PyramidLayout([(20, 18), (6, 7)], [10], torch.device('cpu'))


def test_missing_proposals_become_the_whole_image(layout):
    scores = torch.tensor([[1.0], [3.0], [2.0], [9.0], [5.0]])
    boxes = torch.arange(20.0).view(5, 4).requires_grad_()
    usable = torch.tensor([True, True, False, False, True])
    kept, kept_boxes = best_proposals(scores, boxes.__getitem__, usable, layout, 6)
    fillers = [-10.0] * 5
    assert kept[..., 0].tolist() == [[3.0, 1.0, *fillers[:4]], [5.0, *fillers]]
    assert kept_boxes[0, :2].tolist() == [[4.0, 5.0, 6.0, 7.0], [0.0, 1.0, 2.0, 3.0]]
    assert kept_boxes[1, 0].tolist() == [16.0, 17.0, 18.0, 19.0]
    whole = torch.cat((kept_boxes[0, 2:], kept_boxes[1, 1:])).sigmoid()
    assert ((whole[:, :2] == 0.5) & (whole[:, 2:] > 0.98)).all()
    kept_boxes.sum().backward()
    assert boxes.grad.tolist() == [[1.0] * 4, [1.0] * 4, [0.0] * 4, [0.0] * 4, [1.0] * 4]


def test_the_best_proposals_of_each_image_are_kept(layout):
    scores = torch.tensor([[1.0, 0.0], [3.0, 8.0], [2.0, 0.0], [9.0, 0.0], [5.0, 0.0]])
    boxes = torch.arange(20.0).view(5, 4)
    kept, kept_boxes = best_proposals(scores, boxes.__getitem__, scores[:, 0] > 0, layout, 1)
    assert kept.tolist() == [[[9.0, 0.0]], [[5.0, 0.0]]]
    assert kept_boxes[:, 0, 0].tolist() == [12.0, 16.0]


@torch.no_grad()
def test_reference_points_are_the_same_place_on_all_levels():
    layout = PyramidLayout(SIZES, (7.0, 14.0, 28.0), torch.device('cpu'))
    points = PaddingAwareEncoder.reference_points(layout)
    assert points.shape == (sum(layout.lengths), 3, 2)
    # Except for the thousandth of a cell that keeps them off the kinks of the interpolation.
    sides = layout.shapes.flip(2)[layout.images]
    pixels = (points * sides - 2.0**-10) * torch.tensor(layout.strides)[:, None]
    torch.testing.assert_close(pixels, pixels[:, :1].expand_as(pixels), rtol=0, atol=1e-3)
    torch.testing.assert_close(pixels[1, 0], torch.tensor([10.5, 3.5]))


def test_encoder_equals_mmdets_where_there_is_no_padding(monkeypatch):
    """The sizes are multiples of all strides, so that mmdet's ratios are also exact."""
    monkeypatch.setattr(PyramidLayout, 'shift_in_cells', 0.0)
    cfg = dict(detector_cfg()['encoder'])
    theirs = randomize(DeformableDetrTransformerEncoder(**cfg))
    ours = PaddingAwareEncoder(**cfg)
    ours.load_state_dict(theirs.state_dict())
    layout = PyramidLayout([(112, 168)] * 2, (7.0, 14.0, 28.0, 56.0), torch.device('cpu'))
    stream, positions = torch.randn(2, sum(layout.lengths), theirs.embed_dims)
    shapes = layout.shapes[0]
    areas = shapes.prod(1)
    expected = theirs(
        query=stream.unflatten(0, (2, -1)),
        query_pos=positions.unflatten(0, (2, -1)),
        key_padding_mask=torch.zeros(2, int(areas.sum()), dtype=torch.bool),
        spatial_shapes=shapes,
        level_start_index=areas.cumsum(0) - areas,
        valid_ratios=torch.ones(2, 4, 2),
    )
    got = ours(stream, positions, layout)
    torch.testing.assert_close(got, expected.flatten(0, 1), rtol=1e-4, atol=1e-4)


def test_gradients_of_sampling_offsets_do_not_depend_on_the_canvas():
    torch.manual_seed(0)
    cfg = detector_cfg()
    model = MODELS.build(cfg)
    model.init_weights()  # offsets start at whole cells, where the interpolation has kinks
    image, sample = torch.randn(3, 90, 70), data_sample(90, 70, 3)
    sample.set_metainfo(dict(sample_seed=1))
    grads = []
    for canvas in ((90, 70), (250, 330)):
        model.train()
        model.zero_grad()
        total_loss(model.loss(pad_batch([image], canvas), [sample])).backward()
        grads.append(
            [p.grad.clone() for n, p in model.named_parameters() if 'sampling_offsets' in n]
        )
    for first, second in zip(*grads, strict=True):
        assert (first - second).norm() <= 1e-4 * first.norm()


def losses_and_gradients(detector, num_boxes):
    detector.train()
    detector.zero_grad()
    images = [torch.randn(3, *size) for size in SIZES]
    samples = [data_sample(*size, n) for size, n in zip(SIZES, num_boxes, strict=True)]
    losses = detector.loss(pad_batch(images, CANVAS), samples)
    total_loss(losses).backward()
    return losses, {n: p.grad for n, p in detector.named_parameters() if p.requires_grad}


@pytest.mark.parametrize('num_boxes', [(3, 2), (0, 4), (0, 0)])
def test_every_parameter_gets_a_finite_gradient(num_boxes):
    """Also without boxes: a parameter without a gradient stops distributed training."""
    losses, grads = losses_and_gradients(tiny_detector(), num_boxes)
    assert all(torch.isfinite(term).all() for term in losses.values())
    assert [name for name, grad in grads.items() if grad is None] == []
    assert all(torch.isfinite(grad).all() for grad in grads.values())
    if num_boxes == (0, 0):
        assert losses['loss_bbox'].item() == losses['loss_iou'].item() == 0
        assert losses['loss_cls'].item() > 0


@pytest.mark.parametrize('shape', SHAPES)
def test_every_parameter_of_other_shapes_gets_a_gradient(shape):
    detector = tiny_detector(**SHAPES[shape])
    losses, grads = losses_and_gradients(detector, (3, 0))
    assert {'enc_loss_cls', 'd0.loss_bbox', 'dn_loss_iou'} <= set(losses)
    assert [name for name, grad in grads.items() if grad is None] == []
    assert total_loss(losses).isfinite() and all(grad.isfinite().all() for grad in grads.values())
    assert grads['memory_trans_fc.weight'].any()
    layers = {name.split('.')[0] for name in detector.state_dict()} & {'encoder', 'level_embed'}
    assert layers == (set() if 'encoder_layers' in SHAPES[shape] else {'encoder', 'level_embed'})


@torch.no_grad()
def test_without_an_encoder_queries_are_selected_on_the_neck(images):
    detector = tiny_detector(encoder_layers=0, num_levels=1).eval()
    feats = detector.extract_feat(images[0][None])
    inputs, _ = detector.pre_transformer(feats, SIZES[:1])
    memory = detector.forward_encoder(**inputs)['memory']
    assert torch.equal(memory, feats[0][0, :, :6, :4].flatten(1).T)


def test_frozen_parameters_are_bit_identical_after_training_steps():
    detector = tiny_detector(backbone=dict(frozen_stages='all'))
    before = {name: p.clone() for name, p in detector.named_parameters()}
    optimizer = torch.optim.AdamW(detector.parameters(), lr=0.1, weight_decay=0.1)
    for num_boxes in ((3, 2), (1, 0)):
        losses_and_gradients(detector, num_boxes)
        optimizer.step()
    changed = {n for n, p in detector.named_parameters() if not torch.equal(p, before[n])}
    assert {name for name in changed if name.startswith('backbone.')} == set()
    assert 'neck.projections.0.0.weight' in changed


def test_losses_are_fp32_and_close_under_bf16():
    detector = tiny_detector()
    torch.manual_seed(3)
    exact, _ = losses_and_gradients(detector, (3, 2))
    torch.manual_seed(3)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        rounded, grads = losses_and_gradients(detector, (3, 2))
    assert all(term.dtype == torch.float32 for term in rounded.values())
    assert total_loss(rounded).item() == pytest.approx(total_loss(exact).item(), rel=0.1)
    assert all(torch.isfinite(grad).all() for grad in grads.values())


def test_layer_depth_of_the_whole_detector(detector):
    depths = {n: detector.get_layer_depth(n)[0] for n, _ in detector.named_parameters()}
    assert depths['backbone.pos_embed'] == 0
    assert depths['backbone.blocks.2.attn.qkv.weight'] == 3
    assert depths['backbone.norm.weight'] == 5
    others = {depth for name, depth in depths.items() if not name.startswith('backbone.')}
    assert others == {5}
    assert detector.get_layer_depth('neck.x')[1] == 6


def test_detections_are_limited_to_queries_times_classes():
    cfg = detector_cfg(num_queries=5)
    cfg['test_cfg']['max_per_img'] = 300
    detector = MODELS.build(cfg).eval()
    batch, samples = torch.rand(1, 3, 56, 70), [data_sample(56, 70)]
    with torch.no_grad():
        (result,) = detector.predict(batch, samples, rescale=False)
    assert len(result.pred_instances) == 5 * cfg['bbox_head']['num_classes']


def test_the_caller_keeps_its_config():
    cfg = detector_cfg()
    before = copy.deepcopy(cfg)
    for _ in range(2):
        MODELS.build(cfg)
        assert cfg == before


def test_ground_truth_is_collated_once_per_step(monkeypatch):
    calls = []
    collate = BoxTargets.collate
    monkeypatch.setattr(BoxTargets, 'collate', lambda samples: calls.append(1) or collate(samples))
    losses_and_gradients(tiny_detector(), (3, 2))
    assert calls == [1]


@pytest.mark.parametrize('key', ['as_two_stage', 'with_box_refine'])
def test_needed_settings_are_named(key):
    with pytest.raises(ValueError, match=f'needs {key}=True, got False'):
        MODELS.build({**detector_cfg(), key: False})


@pytest.mark.parametrize('other', [dict(return_intermediate=False), dict(post_norm_cfg={})])
def test_settings_of_mmdets_decoder_that_cannot_work_are_refused(other):
    cfg = detector_cfg()
    cfg['decoder'].update(other)
    with pytest.raises(InputError, match='return_intermediate=True and post_norm_cfg=None, got'):
        MODELS.build(cfg)


def test_positions_must_have_the_channels_of_the_encoder():
    cfg = detector_cfg()
    cfg['positional_encoding']['num_feats'] = 8
    with pytest.raises(ValueError, match='num_feats=8 must be half of the 32 channels'):
        MODELS.build(cfg)


def test_levels_must_agree():
    cfg = detector_cfg()
    cfg['neck']['num_outs'] = 3
    with pytest.raises(ValueError, match='neck makes 3 levels, but num_feature_levels=4'):
        MODELS.build(cfg)


@pytest.mark.parametrize(
    ('part', 'attention'), [('encoder', 'self_attn_cfg'), ('decoder', 'cross_attn_cfg')]
)
def test_attention_must_have_the_levels_of_the_neck(part, attention):
    """A single level would even run: one number is repeated for all."""
    cfg = detector_cfg(num_levels=1)
    cfg[part]['layer_cfg'][attention]['num_levels'] = 2
    message = f'{part}.layer_cfg.{attention}.num_levels=2 must be the number of levels .*, 1$'
    with pytest.raises(InputError, match=message):
        MODELS.build(cfg)


@pytest.mark.parametrize(
    ('part', 'number', 'least'), [('encoder', -1, 0), ('encoder', True, 0), ('decoder', 0, 1)]
)
def test_numbers_of_layers_that_cannot_be(part, number, least):
    cfg = detector_cfg()
    cfg[part]['num_layers'] = number
    with pytest.raises(InputError, match=f'{part}.num_layers must be .* of at least {least}, but'):
        MODELS.build(cfg)


def test_backbone_and_neck_must_know_their_strides():
    cfg = detector_cfg()
    cfg['neck'] = dict(type='ChannelMapper', in_channels=[32], out_channels=32, num_outs=4)
    with pytest.raises(ValueError, match='DINOv2 and ChannelMapper'):
        MODELS.build(cfg)
