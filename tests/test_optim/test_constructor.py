"""Parameter groups by name."""

import copy
import re
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import OPTIMIZERS
from torch import nn

from mmdet_dinov2.engine.optim.param_names import clean_param_name
from mmdet_dinov2.errors import InputError

ROOT = Path(__file__).resolve().parents[2]

# lr 1e-4 x 0.7 ** (13 - depth), depth 0 the embeddings, 1 to 12 the blocks.
B_RATES_AT_DECAY_07 = [
    9.68890104e-07,
    1.38412872e-06,
    1.97732674e-06,
    2.82475249e-06,
    4.0353607e-06,
    5.764801e-06,
    8.23543e-06,
    1.176490e-05,
    1.680700e-05,
    2.401000e-05,
    3.430000e-05,
    4.900000e-05,
    7.000000e-05,
]


def build(name: str):
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    with torch.device('meta'):
        model = MODELS.build(copy.deepcopy(cfg.model))
    return model, build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper)).optimizer


def settings_by_name(optimizer) -> dict:
    found = {}
    for group in optimizer.param_groups:
        assert len(group['names']) == len(group['params'])
        for name in group['names']:
            assert name not in found
            found[name] = group
    return found


@pytest.mark.parametrize(
    'name', ['dino_dinov2_b_12ep', 'dino_dinov2_b_ft_12ep', 'dino_dinov3_b_ft_12ep']
)
def test_every_trained_parameter_is_in_one_group(name):
    model, optimizer = build(name)
    named = settings_by_name(optimizer)
    assert set(named) == {n for n, p in model.named_parameters() if p.requires_grad}
    objects = dict(model.named_parameters())
    for group in optimizer.param_groups:
        for name, param in zip(group['names'], group['params'], strict=True):
            assert objects[name] is param


def test_frozen_backbones_are_in_no_group():
    _, optimizer = build('dino_dinov2_b_12ep')
    assert len(optimizer.param_groups) == 1
    assert optimizer.param_groups[0]['lr'] == 1e-4
    assert not any(name.startswith('backbone') for name in settings_by_name(optimizer))


@pytest.mark.parametrize('name', ['dino_dinov2_b_ft_12ep', 'dino_dinov3_b_ft_12ep'])
def test_layer_decay_of_the_base_size(name):
    _, optimizer = build(name)
    for name, group in settings_by_name(optimizer).items():
        if name.startswith('backbone.blocks.'):
            expected = B_RATES_AT_DECAY_07[int(name.split('.')[2]) + 1]
        elif name.startswith(('backbone.norm', 'neck.', 'encoder.', 'decoder.', 'bbox_head.')):
            expected = 1e-4
        elif name.startswith('backbone.'):
            expected = B_RATES_AT_DECAY_07[0]
        else:
            expected = 1e-4
        assert group['lr'] == pytest.approx(expected, rel=1e-6), name
    # Two groups, with and without weight decay, for each of 13 depths and the rest.
    assert len(optimizer.param_groups) <= 28


@pytest.mark.parametrize(
    ('name', 'only'),
    [
        ('dino_dinov2_b_ft_12ep', 'backbone.pos_embed'),
        ('dino_dinov3_b_ft_12ep', 'backbone.register_tokens'),
        ('dino_dinov3_s_ft', 'backbone.register_tokens'),
    ],
)
def test_tokens_norms_and_biases_do_not_decay(name, only):
    _, optimizer = build(name)
    named = settings_by_name(optimizer)
    for name in (
        'backbone.cls_token',
        only,
        'backbone.blocks.3.norm1.weight',
        'backbone.blocks.3.attn.qkv.bias',
    ):
        assert named[name]['weight_decay'] == 0.0, name
    assert named['backbone.blocks.3.attn.qkv.weight']['weight_decay'] == 0.05
    assert named['encoder.layers.0.ffn.layers.1.weight']['weight_decay'] == 0.05


def test_registers_are_in_layer_0():
    cfg = Config.fromfile(ROOT / 'configs/dino_dinov2_b_ft_12ep.py')
    cfg.model.backbone.num_registers = 4
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    named = settings_by_name(build_optim_wrapper(model, cfg.optim_wrapper).optimizer)
    group = named['backbone.register_tokens']
    assert group['lr'] == pytest.approx(B_RATES_AT_DECAY_07[0])
    assert group['weight_decay'] == 0.0
    assert named['backbone.cls_token'] is named['backbone.pos_embed'] is group


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(2, 2)
        self.same = self.second

    def get_layer_depth(self, name, prefix=''):
        return (0 if name.startswith('first') else 1), 2


def toy_groups(model=None, **paramwise):
    cfg = dict(
        type='OptimWrapper',
        optimizer=dict(type='SGD', lr=1.0, weight_decay=0.1),
        constructor='LayerDecayOptimWrapperConstructor',
        paramwise_cfg=paramwise,
    )
    return build_optim_wrapper(Toy() if model is None else model, cfg).optimizer


def test_lr_mult_multiplies_the_decayed_rate_and_the_longest_key_wins():
    optimizer = toy_groups(
        layer_decay_rate=0.5,
        custom_keys={
            'first': dict(lr_mult=0.1, decay_mult=0.0, momentum=0.7),
            'first.bias': dict(lr_mult=3.0),
        },
    )
    named = settings_by_name(optimizer)
    assert named['first.weight']['lr'] == pytest.approx(0.05)
    assert named['first.weight']['weight_decay'] == 0.0
    assert named['first.weight']['momentum'] == 0.7
    assert named['first.bias']['lr'] == pytest.approx(1.5)
    assert named['first.bias']['weight_decay'] == pytest.approx(0.1)
    assert named['second.weight'] is named['second.bias']
    assert set(named) == {'first.weight', 'first.bias', 'second.weight', 'second.bias'}


def test_names_of_wrapped_models_are_those_of_the_model():
    assert clean_param_name('a._fsdp_wrapped_module.b._checkpoint_wrapped_module.c') == 'a.b.c'
    optimizer = toy_groups(torch.compile(Toy()), custom_keys={'first': dict(lr_mult=0.5)})
    assert settings_by_name(optimizer)['first.weight']['lr'] == 0.5


def frozen_toy():
    model = Toy()
    model.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ('model', 'paramwise', 'message'),
    [
        (None, dict(custom_keys={'frist': dict(lr_mult=0.1)}), "has 'frist'"),
        (None, dict(layer_decay=0.5), r"unknown keys \['layer_decay'\]"),
        (nn.Linear(2, 2), dict(layer_decay_rate=0.5), 'get_layer_depth'),
        (frozen_toy(), {}, 'everything is frozen'),
    ],
)
def test_bad_settings(model, paramwise, message):
    with pytest.raises(InputError, match=message):
        toy_groups(model, **paramwise)


def test_models_without_depths_train_at_one_rate():
    assert len(toy_groups(nn.Linear(2, 2)).param_groups) == 1


def linear_groups(optimizer):
    cfg = dict(
        constructor='LayerDecayOptimWrapperConstructor',
        optimizer=dict(type=optimizer, lr=0.1),
        paramwise_cfg=dict(norm_decay_mult=0.0),
    )
    return build_optim_wrapper(nn.Linear(2, 2), cfg).optimizer.param_groups


@pytest.mark.parametrize(('optimizer', 'decay'), [('AdamW', 0.01), ('SGD', 0.0)])
def test_without_weight_decay_it_is_that_of_the_optimizer(optimizer, decay):
    assert [group['weight_decay'] for group in linear_groups(optimizer)] == [decay]


def test_an_optimizer_without_weight_decay():
    with pytest.raises(InputError, match='Rprop does not have a weight_decay'):
        linear_groups('Rprop')


@pytest.mark.parametrize('options', [dict(weight_decay=0.1), {}])
@pytest.mark.parametrize(
    ('optimizer', 'remedy'),
    [
        ('Lion', 'it comes with the package lion-pytorch: pip install lion-pytorch'),
        ('DAdaptAdam', 'package dadaptation'),
        ('AdmaW', 'did you mean AdamW?'),
        ('Unheard', 'use one of torch.optim'),
    ],
)
def test_an_optimizer_that_is_not_installed(optimizer, remedy, options):
    if optimizer in OPTIMIZERS:
        pytest.skip('the package is installed')
    cfg = dict(
        constructor='LayerDecayOptimWrapperConstructor',
        optimizer=dict(type=optimizer, lr=0.1, **options),
    )
    with pytest.raises(InputError, match=f'type is {optimizer!r}, .*{re.escape(remedy)}'):
        build_optim_wrapper(nn.Linear(2, 2), cfg)
