"""Checkpoints of detrex's DINO on DINOv2: every tensor is placed, or dropped as a checked alias."""

import copy

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from mmdet_dinov2.checkpoint import (
    check_classes,
    checkpoint_classes,
    load_backbone,
    load_for_fine_tuning,
    load_state_dict,
    own_names,
    read_checkpoint,
    state_dict_of,
)
from mmdet_dinov2.errors import InputError

from ..published import SHAPES, tiny_published_cfg, tiny_state

SOURCE = 'model_final.pth'


@pytest.fixture
def state():
    return tiny_state(20)


@pytest.fixture(scope='module')
def published(root):
    with torch.device('meta'):
        model = MODELS.build(
            Config.fromfile(root / 'configs/dino_dinov2_b_12ep_published.py').model
        )
    return model


def test_all_561_names_become_those_of_the_config(published):
    state = {name: torch.zeros(1).expand(shape) for name, shape in SHAPES.items()}
    assert len(state) == 561
    converted = own_names(state, SOURCE)
    shapes = {name: tensor.shape for name, tensor in published.state_dict().items()}
    assert len(converted) == 505
    assert {name: tensor.shape for name, tensor in converted.items()} == shapes


def test_tensors_keep_their_values_and_numbers_of_layers(state):
    converted = own_names(state, SOURCE)
    assert len(set(map(id, converted.values()))) == len(converted)
    for theirs, ours in {
        'backbone.net.timm_model.model.blocks.2.ls1.gamma': 'backbone.blocks.2.ls1.gamma',
        'backbone.simfp_5.2.norm.bias': 'neck.smoothers.2.1.bias',
        'neck.convs.3.norm.weight': 'neck.mappers.3.1.weight',
        'transformer.decoder.layers.1.attentions.1.value_proj.bias':
            'decoder.layers.1.cross_attn.value_proj.bias',
        'transformer.decoder.layers.1.norms.2.bias': 'decoder.layers.1.norms.2.bias',
        'class_embed.2.weight': 'bbox_head.cls_branches.2.weight',
        'bbox_embed.1.layers.2.weight': 'bbox_head.reg_branches.1.4.weight',
    }.items():  # fmt: skip
        assert converted[ours] is state[theirs]


def test_images_are_normalised_with_the_same_numbers(state):
    state['pixel_mean'] = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    state['pixel_std'] = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    assert len(own_names(state, SOURCE)) == len(own_names(tiny_state(20), SOURCE))
    state['pixel_std'] += 1
    with pytest.raises(InputError, match=r'model_final.pth normalises images with pixel_std=\[59'):
        own_names(state, SOURCE)


def drop_alias(state):
    del state['transformer.decoder.class_embed.1.bias']


def drop_original(state):
    del state['bbox_embed.0.layers.1.weight']


def change_alias(state):
    name = 'transformer.decoder.bbox_embed.1.layers.0.bias'
    state[name] = state[name] + torch.eye(1, len(state[name]))[0] * 1e-6


def reshape_alias(state):
    name = 'transformer.decoder.class_embed.0.weight'
    state[name] = state[name][:2]


def add_name(state):
    state['backbone.simfp_2.0.weight'] = torch.zeros(1)


def relative_positions(state):
    state['backbone.net.blocks.0.attn.rel_pos_h'] = torch.zeros(1)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (drop_alias, r'lacks 1 tensors \(transformer.decoder.class_embed.1.bias\); get it again'),
        (drop_original, r'lacks 1 tensors \(bbox_embed.0.layers.1.weight\); get it again'),
        (change_alias, r'but 1 of 24 .* differ .*\(transformer.decoder.bbox_embed.1.layers.0.bias'),
        (reshape_alias, r'but 1 of 24 .* differ .*\(transformer.decoder.class_embed.0.weight'),
        (add_name, r'1 of \d+ names do not belong to it: backbone.simfp_2.0.weight'),
        (relative_positions, 'whose attention has relative positions'),
    ],
)
def test_what_does_not_belong_is_one_sentence(state, change, message):
    change(state)
    with pytest.raises(InputError, match=f'^{SOURCE} .*{message}') as caught:
        own_names(state, SOURCE)
    assert '\n' not in str(caught.value)


def test_a_file_without_any_alias_is_complete(state):
    plain = {n: t for n, t in state.items() if not n.startswith('transformer.decoder.class_embed')}
    plain = {n: t for n, t in plain.items() if not n.startswith('transformer.decoder.bbox_embed')}
    assert len(state) - len(plain) == 24
    assert own_names(plain, SOURCE).keys() == own_names(state, SOURCE).keys()


@pytest.mark.parametrize(
    ('name', 'change', 'message'),
    [
        ('transformer.level_embeds', None, r'1 missing \(level_embed\)'),
        ('label_enc.weight', lambda t: t[:2], r'\(2, 32\) instead of \(3, 32\)'),
    ],
)
def test_a_tensor_that_does_not_fit_leaves_the_model_as_it_was(state, name, change, message):
    model = MODELS.build(tiny_published_cfg(20))
    before = copy.deepcopy(model.state_dict())
    tensor = state.pop(name)
    if change:
        state[name] = change(tensor)
    with pytest.raises(InputError, match=f'{message}.*the config dino_dinov2_b_12ep_published'):
        load_state_dict(model, state, SOURCE)
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


def test_a_training_starts_from_it(state):
    cfg = tiny_published_cfg(20)
    model = MODELS.build(cfg)
    model.init_weights()
    known = ('a', 'b', 'c')
    report = load_for_fine_tuning(model, state, SOURCE, known, known)
    assert not report.missing and not report.left_out and not report.adapted
    expected = own_names(state, SOURCE)
    torch.testing.assert_close(dict(model.state_dict()), expected, rtol=0, atol=0)


def test_a_file_of_detectron2_is_read(state, tmp_path):
    """With what its trainer leaves beside the model; a tensor may be an array."""
    arrays = dict(state)
    arrays['transformer.level_embeds'] = state['transformer.level_embeds'].numpy()
    trainer = dict(
        optimizer=dict(state={0: dict(step=1)}, param_groups=[dict(lr=1e-4, params=[0])]),
        scheduler=dict(base_lrs=[1e-4], last_epoch=90_000),
        iteration=np.int64(89_999),
    )
    path = tmp_path / SOURCE
    torch.save(dict(model=arrays, **trainer), path)
    read = state_dict_of(read_checkpoint(path), path)
    assert read.keys() == state.keys()
    assert torch.equal(read['transformer.level_embeds'], state['transformer.level_embeds'])
    model = MODELS.build(tiny_published_cfg(20))
    load_state_dict(model, read, str(path))
    assert torch.equal(model.state_dict()['level_embed'], state['transformer.level_embeds'])


def test_80_classes_are_those_of_coco(state):
    state['class_embed.0.bias'] = torch.zeros(80)
    checkpoint = dict(model=state)
    assert checkpoint_classes(checkpoint)[:2] == ('person', 'bicycle')
    assert len(checkpoint_classes(checkpoint)) == 80
    with pytest.raises(InputError, match='was trained with the classes'):
        check_classes(checkpoint, ('circle', 'star'), SOURCE)
    state['class_embed.0.bias'] = torch.zeros(79)
    assert checkpoint_classes(checkpoint) is None


def test_its_backbone_can_be_loaded_alone(state, tmp_path):
    path = tmp_path / SOURCE
    torch.save(dict(model=state), path)
    backbone = MODELS.build(tiny_published_cfg(20)['backbone'])
    load_backbone(backbone, path, antialias=True, offset=0.0)
    name = 'blocks.3.mlp.fc2.weight'
    theirs = state[f'backbone.net.timm_model.model.{name}']
    assert torch.equal(backbone.state_dict()[name], theirs)


def test_weights_with_a_final_norm_start_a_backbone_without(tmp_path):
    cfg = tiny_published_cfg(20)['backbone']
    other = MODELS.build({**cfg, 'final_norm': True})
    path = tmp_path / 'dinov2.pth'
    torch.save(other.state_dict(), path)
    backbone = MODELS.build(cfg)
    report = load_backbone(backbone, path, antialias=True, offset=0.0)
    assert {'norm.weight', 'norm.bias'} <= report.left_out.keys()
    assert torch.equal(backbone.cls_token, other.cls_token) and not hasattr(backbone.norm, 'weight')
