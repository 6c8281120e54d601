"""Principal components and attention of tokens against slow, obvious versions."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mmdet_dinov2.analysis.features import (
    ImageFeatures,
    extract_features,
    pca_pictures,
    principal_components,
)
from mmdet_dinov2.errors import InputError

from ..reference.rotary import slow_rotate
from ..test_data.images import bomb_png
from ..tiny import tiny_backbone
from ..tools import failure_of, run_tool, write_config

# Their rows and columns are not multiples of the window size, 3.
SIZES = ((70, 98), (56, 51))
GRIDS = ((5, 7), (4, 4))
WINDOWS = dict(window_size=3, global_attn_indexes=(1, 3))


def images():
    torch.manual_seed(1)
    return [torch.randn(3, *size) for size in SIZES]


@pytest.mark.parametrize(
    'kwargs',
    [
        {},
        WINDOWS,
        dict(num_registers=2, **WINDOWS),
        dict(with_cp=True),
        dict(WINDOWS, type='DINOv3'),
    ],
)
def test_tokens_are_those_of_the_feature_maps(kwargs):
    """This holds for every order of the stream."""
    backbone = tiny_backbone(**kwargs)
    found = extract_features(backbone, images())
    for image, feature, grid in zip(images(), found, GRIDS, strict=True):
        assert feature.tokens.shape == (*grid, 32)
        (alone,) = backbone(image[None])
        assert torch.allclose(feature.tokens, alone[0].permute(1, 2, 0), atol=1e-5)


@pytest.mark.parametrize('kwargs', [{}, dict(type='DINOv3'), dict(num_registers=2, **WINDOWS)])
def test_attention_adds_up_and_is_that_of_the_formula(kwargs):
    backbone = tiny_backbone(**kwargs).eval()
    found = extract_features(backbone, images())
    for image, feature, grid in zip(images(), found, GRIDS, strict=True):
        assert feature.attention.shape == (2, *grid)
        total = feature.attention.sum((1, 2)) + feature.prefix_attention
        assert torch.allclose(total, torch.ones(2), atol=1e-5)
        # Without windows the stream of one image is row-major.
        if not kwargs.get('window_size'):
            plain = tiny_backbone(**kwargs)
            plain.load_state_dict(backbone.state_dict())
            assert torch.allclose(feature.attention, reference(plain, image, grid), atol=1e-5)


@pytest.mark.parametrize('family', ['DINOv2', 'DINOv3'])
def test_windows_do_not_move_the_attention(family):
    """Global blocks give the same attention when windows reorder the stream."""
    backbone = tiny_backbone(family)
    windowed = tiny_backbone(family, window_size=3, global_attn_indexes=(0, 1, 2, 3))
    windowed.load_state_dict(backbone.state_dict())
    for first, second in zip(
        extract_features(backbone, images()), extract_features(windowed, images()), strict=True
    ):
        assert torch.allclose(first.attention, second.attention, atol=1e-5)
        assert first.attention.std() > 1e-4


@torch.no_grad()
def reference(backbone, image, grid):
    """Computes the attention of CLS in the last block by the plain formula, for one image."""
    inputs = []
    hook = backbone.blocks[-1].register_forward_pre_hook(lambda module, args: inputs.append(args))
    backbone.eval()(image[None])
    hook.remove()
    block = backbone.blocks[-1]
    x = block.norm1(inputs[0][0])
    q, k, _ = block.attn.qkv(x).split(32, dim=1)
    rows = []
    for head in range(2):
        part = slice(16 * head, 16 * head + 16)
        keys = list(k[:, part])
        if hasattr(backbone, 'rope_embed'):  # CLS, the first token, is not turned
            for j in range(1, len(x)):
                row, col = divmod(j - 1, grid[1])
                keys[j] = slow_rotate(keys[j], row, col, *grid).float()
        scores = torch.stack([q[0, part] @ key / 4.0 for key in keys])
        weights = scores.exp() / scores.exp().sum()
        rows.append(weights[1:].view(grid))
    return torch.stack(rows)


def test_the_backbone_stays_as_it_was():
    backbone = tiny_backbone().train()
    extract_features(backbone, images())
    assert backbone.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.modules())
    last = tiny_backbone(window_size=3, global_attn_indexes=(1,))
    with pytest.raises(InputError, match='the last block attends within windows'):
        extract_features(last, images())


def test_components_are_those_of_the_svd():
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(60, 8)) * np.arange(1, 9) + 5
    centred = tokens - tokens.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    found = principal_components(tokens, 3)
    assert np.abs(found) == pytest.approx(np.abs(u[:, :3] * s[:3]), abs=1e-8)
    assert ((found**3).sum(0) >= 0).all()
    assert principal_components(tokens[:, :2], 3)[:, 2].tolist() == [0.0] * 60


def test_the_foreground_lies_inside():
    torch.manual_seed(0)
    tokens = 0.1 * torch.randn(8, 10, 16)
    tokens[2:6, 3:7] += 3.0
    for sign in (1, -1):
        feature = ImageFeatures(sign * tokens, torch.zeros(1, 8, 10), torch.zeros(1))
        (everything,), (foreground,) = pca_pictures([feature])
        assert everything.shape == foreground.shape == (8, 10, 3)
        inside = np.zeros((8, 10), dtype=bool)
        inside[2:6, 3:7] = True
        assert (foreground[~inside] == 0).all()
        assert foreground[inside].max() == 1.0 and everything.min() >= 0


def test_tool(tmp_path, capfd):
    config = write_config(tmp_path)
    for i, size in enumerate([(60, 40), (30, 64)]):
        Image.new('RGB', size, (200, 30 * i, 10)).save(tmp_path / f'{i}.png')
    pictures = [tmp_path / '0.png', tmp_path / '1.png']
    common = ('--size', '84', '--work-dir', tmp_path / 'work')
    run_tool('show_features', config, *pictures, *common)
    assert 'RANDOM WEIGHTS, nothing was loaded' in capfd.readouterr().out
    assert cv2.imread(str(tmp_path / 'work/features.png')).std() > 5

    from mmdet.registry import MODELS
    from mmengine.config import Config

    model = MODELS.build(Config.fromfile(config).model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'a.pth')
    run_tool('show_features', config, pictures[0], *common, '--checkpoint', tmp_path / 'a.pth')
    assert 'weights of a.pth' in capfd.readouterr().out
    state = {k: v for k, v in model.state_dict().items() if k != 'backbone.cls_token'}
    torch.save(dict(state_dict=state), tmp_path / 'b.pth')
    error = failure_of(
        capfd, 'show_features', config, pictures[0], *common, '--checkpoint', tmp_path / 'b.pth'
    )
    assert 'b.pth is the checkpoint of a different model' in error
    error = failure_of(capfd, 'show_features', config, tmp_path / 'none.png', *common)
    assert 'none.png does not exist' in error
    (tmp_path / 'bad.png').write_bytes(bomb_png())
    error = failure_of(capfd, 'show_features', config, tmp_path / 'bad.png', *common)
    assert 'bad.png is not a valid image' in error
