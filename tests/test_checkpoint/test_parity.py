"""Weights saved by a peer library, loaded through init_cfg, give the peer's features."""

import pytest
import timm
import torch
from mmdet.registry import MODELS

from mmdet_dinov2.checkpoint.layouts import recognise
from mmdet_dinov2.models import DINOv2
from mmdet_dinov2.models.dinov2_archs import ARCHS

from .peers import Peer, mmpretrain_peer, randomize, timm_peer, transformers_peer

# The published size, a larger one that is not square, and a smaller one.
SIZES = [(518, 518), (546, 700), (224, 266)]
TOLERANCE = 1e-4

# Small models by their number of blocks.
PEERS = {
    'timm': lambda depth: timm_peer('vit_small_patch14_dinov2', SIZES[0], depth),
    'timm-registers': lambda depth: timm_peer('vit_small_patch14_reg4_dinov2', SIZES[0], depth),
    'transformers': lambda depth: transformers_peer(0, depth),
    'transformers-registers': lambda depth: transformers_peer(4, depth),
    'mmpretrain': mmpretrain_peer,
}
# Model of timm and number of blocks. Widths, heads and feed-forward layers differ between the
# published sizes, and every block of a size is the same.
LARGER = [
    ('vit_base_patch14_dinov2', 12),
    ('vit_base_patch14_reg4_dinov2', 2),
    ('vit_large_patch14_dinov2', 2),
    ('vit_large_patch14_reg4_dinov2', 2),
    ('vit_giant_patch14_dinov2', 2),
    ('vit_giant_patch14_reg4_dinov2', 2),
]


def load(peer: Peer, path) -> torch.nn.Module:
    """Loads the peer's weights into our backbone as a config does."""
    if path.suffix == '.safetensors':
        from safetensors.torch import save_file

        save_file(peer.model.state_dict(), path)
    else:
        torch.save(peer.model.state_dict(), path)
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    model = MODELS.build(dict(type='DINOv2', init_cfg=init_cfg, **peer.options))
    model.init_weights()
    return model.eval()


def difference(peer: Peer, model: torch.nn.Module, size: tuple[int, int]) -> float:
    """Returns the largest difference of the final normed patch tokens."""
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        ours = model(image)[0].flatten(2).transpose(1, 2)
        return (ours - peer.features(image)).abs().max().item()


@pytest.mark.parametrize(
    ('name', 'depth'),
    [
        *((name, 4) for name in PEERS),
        *(pytest.param(name, 12, marks=pytest.mark.slow) for name in PEERS),
    ],
)
def test_features_equal_those_of_the_peer(name, depth, tmp_path):
    peer = PEERS[name](depth)
    model = load(peer, tmp_path / 'weights.pth')
    for size in SIZES:
        assert difference(peer, model, size) <= TOLERANCE, size


@pytest.mark.parametrize(('name', 'depth'), LARGER)
def test_features_of_larger_models_equal_those_of_the_peer(name, depth, tmp_path):
    peer = timm_peer(name, SIZES[0], depth)
    model = load(peer, tmp_path / 'weights.pth')
    # The small models see all sizes of images.
    assert difference(peer, model, SIZES[2]) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    ['vit_base_patch14_dinov2', 'vit_base_patch14_reg4_dinov2'],
)
def test_features_of_whole_models_equal_those_of_the_peer(name, tmp_path):
    peer = timm_peer(name, SIZES[0])
    model = load(peer, tmp_path / 'weights.pth')
    for size in SIZES:
        assert difference(peer, model, size) <= TOLERANCE, size


@pytest.mark.parametrize('registers', [0, 4])
@pytest.mark.parametrize('arch', ARCHS)
def test_every_published_size_has_the_parameters_of_the_peer(arch, registers):
    name = f'vit_{arch}_patch14_{"reg4_" if registers else ""}dinov2'
    with torch.device('meta'):
        peer = timm.create_model(f'{name}.lvd142m')
        model = DINOv2(arch=arch, num_registers=registers)
    expected = {name: t.shape for name, t in recognise(peer.state_dict())[1].items()}
    assert {name: t.shape for name, t in model.state_dict().items()} == expected


def test_safetensors_of_transformers_load(tmp_path):
    peer = transformers_peer(0)
    model = load(peer, tmp_path / 'model.safetensors')
    assert difference(peer, model, SIZES[2]) <= TOLERANCE


def test_tipsv2_is_a_dinov2_with_one_register_and_a_smaller_grid(tmp_path):
    name = 'vit_base_patch14_reg1_tipsv2.webli'
    sizes = dict(depth=2, embed_dim=64, num_heads=2)
    timms = randomize(timm.create_model(name, dynamic_img_size=True, num_classes=0, **sizes))
    arch = dict(embed_dims=64, num_layers=2, num_heads=2, feedforward_channels=256, ffn='mlp')
    options = dict(arch=arch, num_registers=1, img_size=448)
    peer = Peer(timms, lambda x: timms.forward_features(x)[:, 2:], options)
    model = load(peer, tmp_path / 'weights.pth')
    for size in ((448, 448), (224, 266)):
        assert difference(peer, model, size) <= TOLERANCE, size
    # The official file has a text encoder beside it.
    whole = {f'vision_encoder.{name}': tensor for name, tensor in model.state_dict().items()}
    whole |= {'vision_encoder.mask_token': torch.zeros(1, 64), 'text_encoder.x': torch.zeros(1)}
    layout, state = recognise(whole)
    assert layout.name == 'official DINOv2' and state.keys() == model.state_dict().keys()


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    """Returns a model of timm with registers, and ours with its weights."""
    peer = timm_peer('vit_small_patch14_reg4_dinov2', SIZES[0])
    model = load(peer, tmp_path_factory.mktemp('small') / 'weights.pth')
    assert difference(peer, model, SIZES[2]) <= TOLERANCE
    return peer, model


@pytest.mark.parametrize(
    'change',
    [
        'blocks.7.attn.qkv.weight',
        'blocks.11.ls2.gamma',
        'register_tokens',
        'cls_token',
        'norm.bias',
    ],
)
def test_the_comparison_notices_a_change(small, change):
    """Otherwise the comparison would prove nothing."""
    peer, model = small
    parameter = model.get_parameter(change)
    before = parameter.detach().clone()
    try:
        with torch.no_grad():
            parameter.zero_()
        assert difference(peer, model, SIZES[2]) > 10 * TOLERANCE
    finally:
        with torch.no_grad():
            parameter.copy_(before)


def test_the_cls_position_matters(tmp_path):
    peer = timm_peer('vit_small_patch14_dinov2', SIZES[0], 1)
    model = load(peer, tmp_path / 'weights.pth')
    assert difference(peer, model, SIZES[2]) <= TOLERANCE
    with torch.no_grad():
        model.pos_embed[:, 0] = 0
    assert difference(peer, model, SIZES[2]) > 10 * TOLERANCE


def test_bf16_autocast_stays_close(small):
    _, model = small
    image = torch.randn(1, 3, *SIZES[2])
    with torch.no_grad():
        exact = model(image)[0]
        with torch.autocast('cpu', dtype=torch.bfloat16):
            rounded = model(image)[0].float()
    similarity = torch.nn.functional.cosine_similarity(exact, rounded, dim=1)
    assert 0.999 <= similarity.min() < 1
