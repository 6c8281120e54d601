"""DINOv3 weights in every layout give the features of timm and of transformers."""

import pytest
import timm
import torch
import transformers
from mmdet.registry import MODELS

from mmdet_dinov2.checkpoint import load_backbone
from mmdet_dinov2.checkpoint.layouts import recognise
from mmdet_dinov2.errors import InputError

from ..tools import run_command
from . import peers
from .peers import Peer

SIZES = [
    (224, 224),
    (160, 512),
    pytest.param((800, 1344), marks=pytest.mark.slow),
]
TOLERANCE = 1e-5
DIMS, DEPTH, HEADS = 128, 3, 2
# Feed-forward layer; its width, aligned to 8 or 64, as the ratios of timm give it; biases of
# queries and values.
KINDS = {
    'mlp': ('mlp', 512, True),
    'mlp without biases': ('mlp', 512, False),
    'swiglu 8': ('swiglu', 344, True),
    'swiglu 64, no biases': ('swiglu', 320, False),
}
_TIMM = {
    'mlp': ('vit_small_patch16_dinov3_qkvb', 4),
    'mlp without biases': ('vit_small_patch16_dinov3', 4),
    'swiglu 8': ('vit_small_plus_patch16_dinov3_qkvb', 4 * 2 / 3),
    'swiglu 64, no biases': ('vit_7b_patch16_dinov3', 2.1),
}


def randomize(model):
    """Gives every parameter a value that shows, and attention that is far from uniform.

    With the initial weights, where a query looks, and so its rotation, hardly matters.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and any(part in name for part in ('qkv', 'q_proj', 'k_proj')):
                parameter.mul_(4)
    return peers.randomize(model)


def options_of(kind: str) -> dict:
    ffn, hidden, biases = KINDS[kind]
    return dict(
        arch=dict(
            embed_dims=DIMS,
            num_layers=DEPTH,
            num_heads=HEADS,
            feedforward_channels=hidden,
            ffn=ffn,
            qkv_bias=biases,
        )
    )


def timm_peer(kind: str) -> Peer:
    name, ratio = _TIMM[kind]
    model = timm.create_model(
        name, embed_dim=DIMS, depth=DEPTH, num_heads=HEADS, mlp_ratio=ratio, num_classes=0
    )
    return Peer(randomize(model), lambda x: model.forward_features(x)[:, 5:], options_of(kind))


def transformers_peer(kind: str) -> Peer:
    ffn, hidden, biases = KINDS[kind]
    gated = ffn == 'swiglu'
    config = transformers.DINOv3ViTConfig(
        hidden_size=DIMS, intermediate_size=hidden, num_hidden_layers=DEPTH,
        num_attention_heads=HEADS, num_register_tokens=4, use_gated_mlp=gated,
        hidden_act='silu' if gated else 'gelu', query_bias=biases, value_bias=biases,
    )  # fmt: skip
    model = randomize(transformers.DINOv3ViTModel(config))
    return Peer(model, lambda x: model(pixel_values=x).last_hidden_state[:, 5:], options_of(kind))


PEERS = {'timm': timm_peer, 'transformers': transformers_peer}


@pytest.fixture(scope='module', params=[(library, kind) for library in PEERS for kind in KINDS])
def pair(request, tmp_path_factory):
    """A model of a peer, and ours with its weights."""
    library, kind = request.param
    torch.manual_seed(0)
    peer = PEERS[library](kind)
    path = tmp_path_factory.mktemp('weights') / 'weights.pth'
    torch.save(peer.model.state_dict(), path)
    return peer, build(path, **peer.options)


def build(path, **options):
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    model = MODELS.build(dict(type='DINOv3', init_cfg=init_cfg, **options))
    model.init_weights()
    return model.eval()


@torch.no_grad()
def features(model, image):
    return model(image)[0].flatten(2).transpose(1, 2)


@pytest.mark.parametrize('size', SIZES, ids=lambda size: 'x'.join(map(str, size)))
def test_features_equal_those_of_the_peer(pair, size):
    peer, model = pair
    image = torch.randn(1, 3, *size)
    ours = features(model, image)
    with torch.no_grad():
        theirs = peer.features(image)
    assert (ours - theirs).abs().max() <= TOLERANCE
    assert 0.5 < ours.std() < 2  # the tolerance is meant for features of about 1


@pytest.fixture
def model():
    """Ours with gated layers, biases and random weights."""
    model = randomize(MODELS.build(dict(type='DINOv3', **options_of('swiglu 8'))))
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.bias.chunk(3)[1].zero_()
    return model


def official(model) -> dict:
    """Returns the weights under the official names."""
    state = {}
    for name, tensor in model.state_dict().items():
        if '.w12.' in name:
            for part, half in zip(('w1', 'w2'), tensor.chunk(2), strict=True):
                state[name.replace('w12', part)] = half.clone()
        else:
            state[name.replace('register_tokens', 'storage_tokens')] = tensor.clone()
        if name.endswith('attn.qkv.bias'):
            mask = torch.ones_like(tensor)
            mask.chunk(3)[1].zero_()
            state[f'{name}_mask'] = mask
    state['mask_token'] = torch.randn(1, DIMS)
    for part in ('weight', 'bias'):
        state[f'local_cls_norm.{part}'] = torch.randn(DIMS)
    return state


def load(state, tmp_path, **options):
    path = tmp_path / 'weights.pth'
    torch.save(state, path)
    model = MODELS.build(dict(type='DINOv3', **{**options_of('swiglu 8'), **options}))
    return model.eval(), str(load_backbone(model, path))


def test_official_names_load_with_a_report_of_every_tensor(model, tmp_path):
    state = official(model)
    for name in state:
        if name.endswith('attn.qkv.bias'):
            state[name].chunk(3)[1].fill_(torch.nan)  # whatever the mask hides
    ours, report = load(state, tmp_path)
    image = torch.randn(1, 3, 64, 96)
    assert torch.equal(features(ours, image), features(model, image))
    for bias in (block.attn.qkv.bias for block in ours.blocks):
        assert (bias.chunk(3)[1] == 0).all()
    lines = report.splitlines()
    assert (
        f'official DINOv3 layout): {len(ours.state_dict())} tensors loaded, 0 adapted' in lines[0]
    )
    for line in (
        '  left out mask_token, local_cls_norm.weight, local_cls_norm.bias: used in pretraining',
        '  left out blocks.0.attn.qkv.bias_mask, blocks.1.attn.qkv.bias_mask, '
        'blocks.2.attn.qkv.bias_mask: applied: the keys have no bias',
        f'  left out {2 * DEPTH} of {len(state)} tensors: merged with others, or not part of the '
        'backbone',
    ):
        assert any(found.startswith(line) for found in lines), (line, report)
    assert len(lines) == 5 and 'DINOv3 License, not Apache-2.0' in lines[-1]


def test_rounded_periods_of_a_file_are_kept_and_reported(model, tmp_path):
    state = official(model)
    rounded = state['rope_embed.periods'].bfloat16()
    state['rope_embed.periods'] = rounded
    ours, report = load(state, tmp_path)
    assert torch.equal(ours.rope_embed.periods, rounded.float())
    assert 'adapted rope_embed.periods: as in the file, up to' in report
    image = torch.randn(1, 3, 160, 512)
    difference = (features(ours, image) - features(model, image)).abs().max()
    assert difference > 10 * TOLERANCE
    # What has none gets exact ones, also after these.
    ours.init_weights()
    torch.testing.assert_close(ours.rope_embed.periods, model.rope_embed.periods)
    del state['rope_embed.periods']
    assert (
        'adapted rope_embed.periods: computed in fp32, the file has none'
        in load(state, tmp_path)[1]
    )


def test_own_names_and_detectors_load(model, tmp_path):
    model.rope_embed.periods.mul_(1.01)
    state = {f'backbone.{name}': tensor for name, tensor in model.state_dict().items()}
    state['neck.conv.weight'] = torch.zeros(1)
    ours, report = load(dict(state_dict=state), tmp_path)
    assert 'DINOv3 of this project layout' in report and '1 of' in report
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in ours.state_dict().items())


def test_converted_files_load_and_the_licence_is_said(model, tmp_path, capsys):
    torch.save(official(model), tmp_path / 'official.pth')
    run_command('convert', tmp_path / 'official.pth', tmp_path / 'own.safetensors')
    assert 'licence: Meta' in capsys.readouterr().out
    ours = build(tmp_path / 'own.safetensors', **options_of('swiglu 8'))
    assert ours.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in ours.state_dict().items())


def test_a_file_without_biases_has_biases_of_zero(tmp_path):
    torch.manual_seed(0)
    peer = timm_peer('mlp without biases')
    options = options_of('mlp')
    ours, report = load(peer.model.state_dict(), tmp_path, **options)
    assert not any(block.attn.qkv.bias.any() for block in ours.blocks)
    assert (
        'adapted blocks.0.attn.qkv.bias, blocks.1.attn.qkv.bias, blocks.2.attn.qkv.bias: zero, the '
        'file has no biases of queries and values'
    ) in report
    image = torch.randn(1, 3, 96, 160)
    with torch.no_grad():
        assert (features(ours, image) - peer.features(image)).abs().max() <= TOLERANCE


@pytest.mark.parametrize('library', PEERS)
def test_no_tensor_of_a_peer_is_left_over(library):
    torch.manual_seed(0)
    peer = PEERS[library]('swiglu 8')
    state = peer.model.state_dict()
    layout, converted = recognise(state)
    assert 'DINOv3' in layout.name
    with torch.device('meta'):
        expected = MODELS.build(dict(type='DINOv3', **peer.options)).state_dict()
    expected.pop('rope_embed.periods')
    assert {n: t.shape for n, t in converted.items()} == {n: t.shape for n, t in expected.items()}
    # Only what pretraining needs does not matter.
    for name in state:
        changed = recognise({**state, name: state[name] + 1})[1]
        same = all(torch.equal(changed[key], converted[key]) for key in converted)
        assert same == ('mask_token' in name), name


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: s.pop('blocks.1.mlp.w2.bias'), r'blocks.1.mlp.w1.bias comes without .*w2.bias'),
        (lambda s: s.update({'blocks.0.extra': torch.zeros(1)}), 'official DINOv3.*blocks.0.extra'),
        (lambda s: s['blocks.0.attn.qkv.bias_mask'].fill_(1), 'bias_mask must be 0 for the keys'),
        (lambda s: s.pop('blocks.0.attn.qkv.bias_mask'), 'qkv.bias has a bias for the keys and no'),
        (lambda s: s.pop('blocks.2.ls1.gamma'), r'1 tensors missing \(blocks.2.ls1.gamma\)'),
        (lambda s: s.update({'rope_embed.periods': torch.ones(8)}), 'different shape .rope_embed'),
    ],
)
def test_what_does_not_fit_is_refused(model, tmp_path, change, message):
    state = official(model)
    state['blocks.0.attn.qkv.bias'] += 1.0
    change(state)
    with pytest.raises(InputError, match=message):
        load(state, tmp_path)


def test_the_other_family_is_named(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / 'three.pth')
    arch = options_of('swiglu 8')['arch']
    two = MODELS.build(dict(type='DINOv2', arch=arch, num_registers=4, img_size=56))
    with pytest.raises(InputError, match="no position embedding, as DINOv3 has: set type='DINOv3'"):
        load_backbone(two, tmp_path / 'three.pth')
    with pytest.raises(InputError, match="a position embedding, as DINOv2 has: set type='DINOv2'"):
        load(two.state_dict(), tmp_path)


def test_lingbot_has_the_layout_of_timm(tmp_path):
    torch.manual_seed(0)
    peer = randomize(
        timm.create_model(
            'vit_giant_patch16_lingbot', embed_dim=DIMS, depth=DEPTH, num_heads=HEADS, num_classes=0
        )
    )
    hidden = peer.blocks[0].mlp.fc1_g.weight.shape[0]
    arch = dict(options_of('swiglu 8')['arch'], feedforward_channels=hidden, qkv_bias=False)
    ours, report = load(peer.state_dict(), tmp_path, arch=arch)
    assert "LingBot-Vision's are under Apache-2.0" in report
    image = torch.randn(1, 3, 96, 160)
    with torch.no_grad():
        theirs = peer.forward_features(image)[:, 5:]
    assert (features(ours, image) - theirs).abs().max() <= TOLERANCE
