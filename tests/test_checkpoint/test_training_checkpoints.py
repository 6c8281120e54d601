"""Checkpoints that DINOv2's own training writes, loaded as they are."""

import re

import pytest
import torch
from mmdet.registry import MODELS

from mmdet_dinov2.checkpoint import load_backbone
from mmdet_dinov2.errors import InputError

from ..tiny import backbone_cfg, tiny_backbone

GATED = dict(embed_dims=32, num_layers=6, num_heads=2, feedforward_channels=40, ffn='swiglu')


def as_written(backbone, num_chunks):
    """Returns the content of a training checkpoint: blocks in chunks, with heads beside them."""
    size = -(-len(backbone.blocks) // num_chunks)
    state = {}
    for name, tensor in backbone.state_dict().items():
        # The number of a block counts from the first one of all, also in later chunks.
        name = re.sub(r'blocks\.(\d+)\.', lambda m: f'blocks.{int(m[1]) // size}.{m[1]}.', name)
        state[f'backbone.{name}'] = tensor
    state['backbone.mask_token'] = torch.zeros(1, 32)
    for head in ('dino_head', 'ibot_head'):
        state[f'{head}.mlp.0.weight'] = torch.zeros(3, 32)
        state[f'{head}.last_layer.weight_g'] = torch.ones(4, 1)
    return dict(teacher=state)


@pytest.mark.parametrize('num_chunks', [4, 2])
@pytest.mark.parametrize('kwargs', [dict(arch=GATED), dict(num_registers=3)])
def test_blocks_in_chunks(tmp_path, num_chunks, kwargs):
    saved = tiny_backbone(**kwargs)
    path = tmp_path / 'teacher_checkpoint.pth'
    torch.save(as_written(saved, num_chunks), path)
    backbone = MODELS.build(backbone_cfg(**kwargs))
    report = load_backbone(backbone, path)
    assert report.layout == 'official DINOv2' and report.missing == [] and not report.adapted
    assert len(report.loaded) == len(saved.state_dict())
    assert report.left_out['mask_token'] == 'used in pretraining only'
    for name, tensor in saved.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], tensor), name


def test_a_part_that_no_block_has_is_refused(tmp_path):
    content = as_written(tiny_backbone(), 2)
    content['teacher']['backbone.blocks.0.1.extra.weight'] = torch.zeros(1)
    torch.save(content, tmp_path / 'other.pth')
    with pytest.raises(InputError, match=r'blocks\.0\.1\.extra\.weight'):
        load_backbone(tiny_backbone(), tmp_path / 'other.pth')


def test_a_lost_block_is_named(tmp_path):
    content = as_written(tiny_backbone(), 2)
    state = content['teacher']
    for name in [name for name in state if '.blocks.1.3.' in name]:
        del state[name]
    torch.save(content, tmp_path / 'short.pth')
    with pytest.raises(InputError, match='it has 3 blocks instead of 4'):
        load_backbone(tiny_backbone(), tmp_path / 'short.pth')


def test_the_large_model_of_the_published_recipe():
    arch = dict(
        embed_dims=1024, num_layers=24, num_heads=16, feedforward_channels=2736, ffn='swiglu'
    )
    with torch.device('meta'):
        backbone = MODELS.build(dict(type='DINOv2', arch=arch))
    mlp = backbone.blocks[0].mlp
    # Two thirds of 4096, rounded up to a multiple of 8, as the published layer does it.
    assert mlp.w12.weight.shape == (2 * 2736, 1024) and mlp.w3.weight.shape == (1024, 2736)
