"""Sizes of DINOv3, the bias of its keys, its rotary positions in the backbone."""

import copy

import pytest
import timm
import torch
from mmengine.model import ExponentialMovingAverage

from mmdet_dinov2.checkpoint import load_for_fine_tuning
from mmdet_dinov2.checkpoint.layouts import recognise
from mmdet_dinov2.layers import TokenLayout
from mmdet_dinov2.models import DINOv3, vit

from ..tiny import ARCH, tiny_backbone, tiny_detector

# Parameters, and tensors of the official file.
PUBLISHED = {
    'small': (21_600_768, 188),
    'small_plus': (28_697_088, 212),
    'base': (85_668_864, 188),
    'large': (303_153_152, 368),
    'huge_plus': (840_632_320, 552),
    '7b': (6_716_030_976, 610),
}


@pytest.mark.parametrize('arch', DINOv3.ARCHS)
def test_published_sizes_have_the_names_and_shapes_of_timm(arch):
    lingbot = arch == 'giant'
    with torch.device('meta'):
        model = DINOv3(arch)
        peer = timm.create_model(
            f'vit_{arch}_patch16_{"lingbot" if lingbot else "dinov3"}', num_classes=0
        )
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if not lingbot:
        parameters, tensors = PUBLISHED[arch]
        assert sum(p.numel() for p in model.parameters()) == parameters
        # The mask token; the mask of each bias; w1 and w2 of each block; local_cls_norm.
        biases = sum(name.endswith('attn.qkv.bias') for name in shapes)
        gated = sum('.w12.' in name for name in shapes)
        assert len(shapes) + 1 + biases + gated + 2 * (arch == '7b') == tensors
    # timm saves neither the periods nor, in these models, the biases.
    expected = {name: tensor.shape for name, tensor in recognise(peer.state_dict())[1].items()}
    dims = model.embed_dims
    expected['rope_embed.periods'] = (dims // model.arch['num_heads'] // 4,)
    if model.arch['qkv_bias']:
        expected.update(
            {f'blocks.{i}.attn.qkv.bias': (3 * dims,) for i in range(len(model.blocks))}
        )
    assert shapes == expected


def test_it_follows_what_was_published():
    with torch.device('meta'):
        model = DINOv3('small')
    assert (model.patch_size, model.num_registers) == (16, 4)
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-5}
    assert {block.attn.head_dim for block in model.blocks} == {64}
    periods = DINOv3('small').rope_embed.periods
    assert periods.dtype == torch.float32
    torch.testing.assert_close(periods, 100 ** (torch.arange(16) / 16))


def key_biases(module):
    return [p.chunk(3)[1] for name, p in module.named_parameters() if name.endswith('qkv.bias')]


def test_keys_have_no_bias_after_steps_with_weight_decay_and_in_averages():
    model = tiny_detector(backbone=dict(type='DINOv3', drop_path_rate=0.2)).backbone
    model.init_weights()
    average = ExponentialMovingAverage(model, momentum=0.3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    before = [block.attn.qkv.bias.detach().clone() for block in model.blocks]
    for _ in range(3):
        optimizer.zero_grad()
        model.train()(torch.randn(2, 3, 42, 28))[0].square().sum().backward()
        optimizer.step()
        average.update_parameters(model)
    for module in (model, average):
        biases = key_biases(module)
        assert len(biases) == 4
        assert all((bias == 0).all() for bias in biases)
    for block, bias in zip(model.blocks, before, strict=True):
        queries, _, values = (block.attn.qkv.bias - bias).chunk(3)
        assert queries.all() and values.all()


def test_a_bias_of_the_keys_has_no_effect_wherever_it_comes_from():
    source = tiny_detector(backbone=dict(type='DINOv3'))
    model = copy.deepcopy(source)
    with torch.no_grad():
        for bias in key_biases(source):
            bias.fill_(3.0)
    load_for_fine_tuning(model, source.state_dict(), 'a.pth', None, None)
    with torch.no_grad():
        for bias in key_biases(source):
            bias.zero_()
    image = torch.randn(1, 3, 42, 56)
    (features,) = model.backbone.train()(image)
    assert torch.equal(features, source.backbone(image)[0])
    features.sum().backward()
    for block in model.backbone.blocks:
        assert (block.attn.qkv.bias.grad.chunk(3)[1] == 0).all()


def test_a_bias_of_the_keys_would_change_the_features():
    """In DINOv2 it adds the same number to all scores of a query, and changes nothing."""
    image = torch.randn(1, 3, 42, 56)
    for family, matters in (('DINOv2', False), ('DINOv3', True)):
        model = tiny_backbone(family).eval()
        features = []
        for value in (0.0, 1.0):
            for block in model.blocks:
                state = block.attn.qkv.state_dict()
                block.attn.qkv = torch.nn.Linear(32, 96)
                block.attn.qkv.load_state_dict(state)
                block.attn.qkv.bias.data[32:64] = value
            features.append(model(image)[0])
        assert torch.allclose(*features, atol=1e-4) != matters


@pytest.mark.parametrize('frozen_dtype', ['float32', 'bfloat16'])
def test_the_table_is_fp32_under_autocast(monkeypatch, frozen_dtype):
    tables = []
    forward = vit.Block.forward

    def spy(self, x, layout, kept, rotary):
        tables.append(rotary)
        return forward(self, x, layout, kept, rotary)

    monkeypatch.setattr(vit.Block, 'forward', spy)
    model = tiny_backbone('DINOv3', frozen_stages=2, frozen_dtype=frozen_dtype).train()
    with torch.autocast('cpu', torch.bfloat16):
        model(torch.randn(1, 3, 42, 70))
    assert len(tables) == 4 and all(table is tables[0] for table in tables)
    expected = model.rotary_table(TokenLayout(((3, 5),), 1))
    assert tables[0].dtype == torch.float32 and torch.equal(tables[0], expected)
    # It was not rounded before, either.
    assert not torch.equal(expected, expected.bfloat16().float())


def test_positions_matter_on_images_that_are_not_square():
    """Rows and columns have scales of their own, so a turned image is not the same."""
    model = tiny_backbone('DINOv3', arch=dict(ARCH, num_layers=1)).eval()
    image = torch.randn(1, 3, 28, 70)
    kernel = model.patch_embed.proj.weight.data
    kernel.copy_((kernel + kernel.transpose(2, 3)) / 2)  # a turned patch is embedded as the patch
    (features,) = model(image)
    (turned,) = model(image.transpose(2, 3))
    assert not torch.allclose(features, turned.transpose(2, 3), atol=1e-3)
    # Without rotation they would be the same.
    model.rotary_table = lambda layout: None
    torch.testing.assert_close(model(image)[0], model(image.transpose(2, 3))[0].transpose(2, 3))
