"""Weights saved by a peer library, loaded through init_cfg, give the peer's features."""

import pytest
import torch
from mmdet.registry import MODELS

from mmdet_dinov2.checkpoint import convert_state_dict, load_backbone
from mmdet_dinov2.models import DINOv2

from .peers import Peer, mmpretrain_peer, timm_peer, transformers_peer

# The published grid, a larger one that is not square, a smaller one.
SIZES = [(518, 518), (546, 700), (224, 266)]
TOLERANCE = 1e-4

PEERS = {
    'timm-small': lambda: timm_peer('vit_small_patch14_dinov2', SIZES[0]),
    'timm-small-reg4': lambda: timm_peer('vit_small_patch14_reg4_dinov2', SIZES[0]),
    'timm-base': lambda: timm_peer('vit_base_patch14_dinov2', SIZES[0]),
    'timm-base-reg4': lambda: timm_peer('vit_base_patch14_reg4_dinov2', SIZES[0]),
    'timm-large-reg4': lambda: timm_peer('vit_large_patch14_reg4_dinov2', SIZES[0]),
    'timm-giant-2-blocks': lambda: timm_peer('vit_giant_patch14_dinov2', SIZES[0], depth=2),
    'timm-giant-reg4-2-blocks': lambda: timm_peer(
        'vit_giant_patch14_reg4_dinov2', SIZES[0], depth=2
    ),
    'transformers': lambda: transformers_peer(0),
    'transformers-registers': lambda: transformers_peer(4),
    'mmpretrain': mmpretrain_peer,
}


def load(peer: Peer, path) -> torch.nn.Module:
    """Our backbone with the peer's weights, by the usual way of a config."""
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
    """Largest difference of the final normed patch tokens."""
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        ours = model(image)[0].flatten(2).transpose(1, 2)
        return (ours - peer.features(image)).abs().max().item()


@pytest.mark.parametrize('name', PEERS)
def test_features_equal_those_of_the_peer(name, tmp_path):
    peer = PEERS[name]()
    model = load(peer, tmp_path / 'weights.pth')
    # The large sizes take a second each; the small model sees all of them.
    sizes = SIZES if 'large' not in name and 'giant' not in name else SIZES[1:]
    for size in sizes:
        assert difference(peer, model, size) <= TOLERANCE, size


def test_safetensors_of_transformers_load(tmp_path):
    peer = transformers_peer(0)
    model = load(peer, tmp_path / 'model.safetensors')
    assert difference(peer, model, SIZES[2]) <= TOLERANCE


@pytest.mark.slow
def test_the_giant_model_at_full_depth(tmp_path):
    # 4.5 GB each: one model at a time.
    peer = timm_peer('vit_giant_patch14_dinov2', SIZES[0])
    path, options = tmp_path / 'weights.pth', peer.options
    torch.save(peer.model.state_dict(), path)
    image = torch.randn(1, 3, *SIZES[2])
    with torch.no_grad():
        expected = peer.features(image)
    del peer
    model = DINOv2(**options).eval()
    load_backbone(model, path, model.antialias, model.offset)
    with torch.no_grad():
        features = model(image)[0].flatten(2).transpose(1, 2)
    assert (features - expected).abs().max() <= TOLERANCE


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
def test_the_comparison_notices_a_change(change, tmp_path):
    """Else it would prove nothing."""
    peer = timm_peer('vit_small_patch14_reg4_dinov2', SIZES[0])
    model = load(peer, tmp_path / 'weights.pth')
    assert difference(peer, model, SIZES[2]) <= TOLERANCE
    with torch.no_grad():
        model.get_parameter(change).zero_()
    assert difference(peer, model, SIZES[2]) > 10 * TOLERANCE


def test_the_cls_position_matters(tmp_path):
    peer = timm_peer('vit_small_patch14_dinov2', SIZES[0])
    model = load(peer, tmp_path / 'weights.pth')
    with torch.no_grad():
        model.pos_embed[:, 0] = 0
    assert difference(peer, model, SIZES[2]) > 10 * TOLERANCE


def test_bf16_autocast_stays_close():
    torch.manual_seed(0)
    peer = timm_peer('vit_base_patch14_dinov2', SIZES[0])
    model = MODELS.build(dict(type='DINOv2', **peer.options)).eval()
    model.load_state_dict(convert_state_dict(peer.model.state_dict()))
    image = torch.randn(1, 3, 224, 266)
    with torch.no_grad():
        exact = model(image)[0]
        with torch.autocast('cpu', dtype=torch.bfloat16):
            rounded = model(image)[0].float()
    similarity = torch.nn.functional.cosine_similarity(exact, rounded, dim=1)
    assert similarity.min() >= 0.999
