"""Settings that save memory or time do not change the results of the detector."""

import copy

import pytest
import torch
from mmdet.registry import MODELS
from torch._dynamo.utils import counters

from mmdet_dinov2.errors import InputError
from mmdet_dinov2.layers import TokenwiseModule, compiling

from ..tiny import data_sample, detector_cfg, pad_batch, randomize, total_loss

PARTS = ('encoder', 'decoder')
SIZES = [(75, 52), (130, 190)]


def build(dropout=0.0, compiled=False, recomputed=None, **backbone):
    """Builds a detector that has the same weights whatever its settings."""
    cfg = detector_cfg(backbone=backbone)
    for part in PARTS:
        layer = cfg[part]['layer_cfg']
        layer['self_attn_cfg']['dropout'] = layer['ffn_cfg']['ffn_drop'] = dropout
        setting = (recomputed or {}).get(part)
        if setting is not None:
            cfg[part]['with_cp' if setting is True else 'num_cp'] = setting
    torch.manual_seed(0)
    model = MODELS.build(dict(cfg, compiled=compiled))
    model.init_weights()
    return randomize(model, std=0.1)


def train_step(model, sizes=tuple(SIZES), autocast=False, num_boxes=2):
    """Returns losses and gradients of a step with denoising."""
    torch.manual_seed(1)
    samples = [data_sample(*size, num_boxes=num_boxes) for size in sizes]
    for index, sample in enumerate(samples):
        sample.set_metainfo(dict(sample_seed=index))
    canvas = tuple(max(size[axis] for size in sizes) for axis in (0, 1))
    images = pad_batch([torch.randn(3, *size) for size in sizes], canvas)
    model.train()
    model.zero_grad()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        losses = model.loss(images, samples)
    total_loss(losses).backward()
    return losses, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ('dropout', 'autocast', 'family'),
    [
        (0.0, False, 'DINOv2'),
        (0.3, False, 'DINOv2'),
        (0.0, True, 'DINOv2'),
        (0.0, True, 'DINOv3'),
    ],
    ids=['plain', 'drop', 'bf16', 'DINOv3-bf16'],
)
def test_recomputed_layers_give_the_same_losses_and_gradients(dropout, autocast, family):
    backbone = dict(type=family, drop_path_rate=0.3)
    plain = build(dropout, **backbone)
    saving = build(dropout, recomputed=dict.fromkeys(PARTS, True), with_cp=True, **backbone)
    expected_losses, expected = train_step(plain, autocast=autocast)
    losses, gradients = train_step(saving, autocast=autocast)
    assert any(name.startswith('dn_loss') or '.dn_' in name for name in losses)
    for name, loss in expected_losses.items():
        assert torch.equal(losses[name], loss), name
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, msg=name)


@pytest.mark.parametrize(
    ('recomputed', 'with_cp', 'again'),
    [
        (dict(), False, []),
        (dict(encoder=True), False, ['encoder.0']),
        (dict(encoder=0, decoder=1), False, ['decoder.0']),
        (dict(decoder=True), True, ['blocks', 'decoder.0', 'decoder.1']),
    ],
)
def test_each_part_has_its_own_switch(recomputed, with_cp, again):
    model = build(recomputed=recomputed, with_cp=with_cp)
    calls = {}

    def count(name, module):
        module.register_forward_hook(lambda *args: calls.update({name: calls.get(name, 0) + 1}))

    for part in ('encoder', 'decoder'):
        for index, layer in enumerate(getattr(model, part).layers):
            count(f'{part}.{index}', layer.norms[0])
    for block in model.backbone.blocks:
        count('blocks', block.norm1)
    train_step(model)
    once = {'encoder.0': 1, 'decoder.0': 1, 'decoder.1': 1, 'blocks': 4}
    assert calls == {name: n * (2 if name in again else 1) for name, n in once.items()}
    calls.clear()
    with torch.no_grad():
        model.eval().predict(torch.randn(1, 3, 60, 60), [data_sample(60, 60)])
    assert calls == once


@pytest.mark.parametrize('part', PARTS)
@pytest.mark.parametrize('num_cp', [3, -2, 1.0, '2'])
def test_wrong_numbers_of_layers_are_named(part, num_cp):
    with pytest.raises(InputError, match=rf'{part}\.num_cp must be .* but is {num_cp!r}'):
        build(recomputed={part: num_cp})


@pytest.mark.parametrize('part', PARTS)
def test_all_layers_and_a_number_of_them_contradict(part):
    cfg = detector_cfg()
    cfg[part].update(with_cp=True, num_cp=1)
    with pytest.raises(InputError, match=rf'{part} has with_cp=True .* and num_cp=1'):
        MODELS.build(cfg)


def test_frozen_weights_in_bf16_predict_and_train_like_autocast():
    plain = build(frozen_stages='all')
    held = build(frozen_stages='all', frozen_dtype='bfloat16')
    (losses, gradients), (expected_losses, expected) = (
        train_step(model, autocast=True) for model in (held, plain)
    )
    for name, loss in expected_losses.items():
        assert torch.equal(losses[name], loss), name
    for name, gradient in expected.items():
        assert torch.equal(gradients[name], gradient), name
    assert sum(p.dtype == torch.bfloat16 for p in held.backbone.parameters()) == 34
    state = held.state_dict()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(state[name], tensor), name


def test_the_switch_reaches_every_layer_unless_a_part_has_its_own():
    def compiled(model):
        parts = (model.backbone, model.encoder, model.decoder, model.bbox_head)
        modules = [[m for m in p.modules() if isinstance(m, TokenwiseModule)] for p in parts]
        assert [len(of_part) for of_part in modules] == [4, 1, 3, 1]
        return [{m.compiled for m in of_part} for of_part in modules]

    assert compiled(build()) == [{False}] * 4
    assert compiled(build(compiled=True)) == [{True}] * 4
    cfg = detector_cfg(backbone=dict(compiled=True))
    assert compiled(MODELS.build(cfg)) == [{True}, {False}, {False}, {False}]
    cfg['encoder']['compiled'] = False
    assert compiled(MODELS.build(dict(cfg, compiled=True))) == [{True}, {False}, {True}, {True}]


@pytest.mark.slow
def test_one_switch_compiles_all_parts_once_for_all_sizes_and_numbers_of_boxes(monkeypatch):
    monkeypatch.setattr(compiling, '_BACKEND', 'aot_eager')
    torch._dynamo.reset()
    counters.clear()
    plain = build()
    model = copy.deepcopy(build(compiled=True, with_cp=True, recomputed=dict.fromkeys(PARTS, True)))
    assert model.state_dict().keys() == plain.state_dict().keys()
    compiled = 0
    for index in range(20):
        sizes = [tuple(torch.randint(40, 130, (2,)).tolist()) for _ in range(1 + index % 2)]
        num_boxes = (2, 3, 0, 5, 1, 7)[index % 6]
        losses, gradients = train_step(model, sizes, num_boxes=num_boxes)
        if index % 5 == 0:
            expected_losses, expected = train_step(plain, sizes, num_boxes=num_boxes)
            for name, loss in expected_losses.items():
                torch.testing.assert_close(losses[name], loss, msg=name)
            for name, gradient in expected.items():
                assert (gradients[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6, name
        if index == 0:
            compiled = counters['stats']['unique_graphs']
            # Two each of backbone and encoder, five of the decoder, four of denoising and head.
            assert compiled >= 13
    assert not counters['graph_break']
    assert counters['stats']['unique_graphs'] - compiled <= 2
    torch._dynamo.reset()
