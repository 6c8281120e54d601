"""Groups of queries, pre-norm, looking forward once, fewer queries and layers at test time."""

import pytest
import torch
from mmdet.registry import MODELS
from torch import nn

from mmdet_dinov2.errors import InputError
from mmdet_dinov2.models.transformer_layers import DecoderLayer, EncoderLayer
from mmdet_dinov2.sample_meta import SAMPLE_SEED, announce_step

from ..recipe_parts import PARTS, TOGETHER, detector_with
from ..tiny import data_sample, detector_cfg, pad_batch, randomize, total_loss

SIZES = [(75, 52), (130, 190)]
CANVAS = (230, 340)
NUM_BOXES = [(3, 2), (0, 0)]


def training_batch(num_boxes):
    torch.manual_seed(1)
    images = [torch.randn(3, *size) for size in SIZES]
    samples = [data_sample(*size, n) for size, n in zip(SIZES, num_boxes, strict=True)]
    for seed, sample in enumerate(samples):
        sample.set_metainfo({SAMPLE_SEED: seed})
    return images, samples


@pytest.mark.parametrize('num_boxes', NUM_BOXES)
def test_every_parameter_gets_a_finite_gradient(num_boxes):
    model = detector_with(TOGETHER).train()
    images, samples = training_batch(num_boxes)
    losses = model.loss(pad_batch(images, CANVAS), samples)
    total_loss(losses).backward()
    assert all(value.isfinite() for value in losses.values())
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, grad in grads.items() if grad is None] == []
    assert all(grad.isfinite().all() for grad in grads.values())
    if num_boxes != (0, 0):
        assert all(grad.any() for name, grad in grads.items() if name.startswith('query_groups'))


@pytest.mark.parametrize('part', [*PARTS, 'together'])
def test_losses_do_not_depend_on_batch_mates(part):
    model = detector_with(TOGETHER if part == 'together' else PARTS[part]).train()
    images, samples = training_batch((3, 2))
    whole = model.loss(pad_batch(images, CANVAS), samples)
    announce_step([samples[:1], samples[1:]])
    alone = [
        model.loss(image[None], [sample]) for image, sample in zip(images, samples, strict=True)
    ]
    for name, value in whole.items():
        mean = sum(losses[name] for losses in alone) / 2
        torch.testing.assert_close(mean, value, rtol=1e-3, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize('sizes', [(None, None), (5, 1)])
def test_predictions_do_not_depend_on_batch_mates(sizes):
    model = detector_with(TOGETHER).eval()
    model.set_test_size(*sizes)
    images = [torch.randn(3, *size) for size in SIZES]
    batched = model.predict(pad_batch(images, CANVAS), [data_sample(*s) for s in SIZES])
    for image, sample in zip(images, batched, strict=True):
        (alone,) = model.predict(image[None], [data_sample(*image.shape[1:])])
        a, b = alone.pred_instances, sample.pred_instances
        torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=1e-4)
        torch.testing.assert_close(a.bboxes, b.bboxes, rtol=1e-4, atol=1e-4 * max(CANVAS))
        assert torch.equal(a.labels, b.labels)


def decoded(model):
    """Returns the decoder's queries of a training batch, and all inputs of the head."""
    images, samples = training_batch((3, 2))
    head_inputs = model._forward_to_head(pad_batch(images, CANVAS), samples)
    return head_inputs['hidden_states'], head_inputs


@torch.no_grad()
def test_groups_see_neither_each_other_nor_the_denoising_queries():
    model = detector_with(PARTS['groups']).train()
    before, inputs = decoded(model)
    first = inputs['dn_meta']['num_denoising_queries']
    assert before.shape[2] == first + 3 * 20 and inputs['enc_outputs_class'].shape[1] == 3 * 20
    assert inputs['dn_meta']['num_query_groups'] == 3

    def changed(parameter):
        kept = parameter.clone()
        parameter.add_(torch.randn_like(parameter))
        after, _ = decoded(model)
        parameter.copy_(kept)
        parts = (after != before).flatten(3).any(3).any(0).any(0)
        return [bool(part.any()) for part in parts.split([first, 20, 20, 20])]

    assert changed(model.query_groups[0].query_embedding.weight) == [False, False, True, False]
    assert changed(model.query_groups[1].memory_trans_fc.weight) == [False, False, False, True]
    # Denoising queries see the first group, as without further groups.
    assert changed(model.query_embedding.weight) == [True, True, False, False]
    assert changed(model.dn_query_generator.label_embedding.weight) == [True, False, False, False]


@torch.no_grad()
def test_the_first_group_trains_and_predicts_as_it_does_alone():
    grouped, alone = detector_with(PARTS['groups']), detector_with({})
    missing, unexpected = alone.load_state_dict(grouped.state_dict(), strict=False)
    assert not missing and all(name.startswith('query_groups.') for name in unexpected)
    expected, _ = decoded(alone.train())
    got, _ = decoded(grouped.train())
    torch.testing.assert_close(got[:, :, : expected.shape[2]], expected)
    image, samples = torch.randn(1, 3, *SIZES[1]), [data_sample(*SIZES[1])]
    (a,), (b,) = (model.eval().predict(image, samples) for model in (grouped, alone))
    assert torch.equal(a.pred_instances.scores, b.pred_instances.scores)


@torch.no_grad()
def test_groups_start_with_the_initial_values_of_the_first():
    model = MODELS.build({**detector_cfg(), 'num_query_groups': 2})
    model.init_weights()
    (group,) = model.query_groups
    assert torch.equal(group.cls_branch.bias, model.bbox_head.cls_branches[-1].bias)
    assert not group.reg_branch[-1].weight.any()
    assert not torch.equal(group.memory_trans_fc.weight, model.memory_trans_fc.weight)


@torch.no_grad()
def test_fewer_layers_and_queries_are_a_part_of_all():
    model = detector_with({}).eval()
    image, samples = torch.randn(1, 3, *SIZES[1]), [data_sample(*SIZES[1])]
    states, references = (
        model._forward_to_head(image, samples)[key] for key in ('hidden_states', 'references')
    )
    assert len(states) == 2
    model.set_test_size(num_decoder_layers=1)
    fewer = model._forward_to_head(image, samples)
    assert len(fewer['hidden_states']) == 1
    assert torch.equal(fewer['hidden_states'][0], states[0])
    model.set_test_size(num_queries=6)
    (best,) = model._forward_to_head(image, samples)['references'][:1]
    torch.testing.assert_close(best, references[0][:, :6])
    (found,) = model.predict(image, samples)
    assert len(found.pred_instances) == 6 * model.bbox_head.num_classes
    # Training is not affected, and None takes all again.
    images, with_boxes = training_batch((3, 2))
    model.train()
    losses = model.loss(pad_batch(images, CANVAS), with_boxes)
    assert losses.keys() >= {'d0.loss_cls', 'loss_cls'}
    model.eval().set_test_size()
    assert torch.equal(model._forward_to_head(image, samples)['hidden_states'], states)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'test_cfg.num_queries': 21}, 'test_cfg.num_queries .* from 1 to 20.* but is 21'),
        ({'test_cfg.num_decoder_layers': 0}, 'num_decoder_layers .* from 1 to 2.* but is 0'),
        ({'num_query_groups': 0}, 'num_query_groups .* at least 1, but is 0'),
        ({'num_query_groups': 2.5}, 'num_query_groups .* but is 2.5'),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        detector_with(options)


def residual(module, *args, **kwargs):
    """Runs an attention without what it adds its result to."""
    return module(*args, **kwargs) - args[0]


@torch.no_grad()
def test_pre_norm_layers_add_to_what_is_not_normed():
    attention = dict(embed_dims=16, num_heads=4, dropout=0.0)
    deformable = attention | dict(num_levels=1)
    ffn = dict(embed_dims=16, feedforward_channels=32)
    shapes, images = torch.tensor([[[2, 3]]]), torch.zeros(6, dtype=torch.long)
    cells, position = torch.randn(2, 6, 16)
    points = torch.rand(6, 1, 2)
    layer = randomize(EncoderLayer(deformable, ffn, norm_first=True))
    sampled = (points, shapes, images)
    normed = layer.norms[0](cells)
    x = cells + residual(layer.self_attn, normed, normed, position, *sampled)
    x = x + layer.ffn.layers(layer.norms[1](x))
    sides = shapes.flip(2).expand(6, -1, -1)
    torch.testing.assert_close(layer(cells, position, points, sides, shapes, images), x)

    layer = randomize(DecoderLayer(attention, deformable, ffn, norm_first=True))
    sampled = (torch.rand(6, 1, 4), shapes, images)
    x = cells[None] + residual(layer.self_attn, layer.norms[0](cells[None]), position[None])
    x = x[0]
    x = x + residual(layer.cross_attn, layer.norms[1](x), cells, position, *sampled)
    x = x + layer.ffn.layers(layer.norms[2](x))
    torch.testing.assert_close(layer(cells[None], position[None], cells, *sampled)[0], x)


def test_pre_norm_encoders_end_in_a_norm():
    assert isinstance(detector_with(PARTS['norm_first']).encoder.norm, nn.LayerNorm)
    assert not list(detector_with({}).encoder.norm.parameters())


@pytest.mark.parametrize('twice', [True, False])
def test_the_loss_of_a_layer_reaches_the_box_before_it_if_asked_to(twice):
    model = detector_with({'decoder.look_forward_twice': twice}).train()
    images, samples = training_batch((3, 2))
    losses = model.loss(pad_batch(images, CANVAS), samples)
    branch = model.bbox_head.reg_branches[0][-1].bias
    (grad,) = torch.autograd.grad(losses['loss_bbox'], branch, allow_unused=True)
    assert (grad is not None and grad.any()) == twice
