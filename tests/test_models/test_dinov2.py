"""Positions and sizes of DINOv2."""

import pytest
import torch

from mmdet_dinov2.models import DINOv2
from mmdet_dinov2.models.dinov2_archs import ARCHS

from ..tiny import ARCH, tiny_backbone


def test_position_embedding_keeps_the_published_grid_for_every_patch_size():
    with torch.device('meta'):
        assert DINOv2('small', patch_size=16).pos_embed.shape == (1, 1 + 37 * 37, 384)


def test_interpolation_follows_the_published_variant():
    assert (tiny_backbone().antialias, tiny_backbone().offset) == (False, 0.1)
    registers = tiny_backbone(num_registers=4)
    assert (registers.antialias, registers.offset) == (True, 0.0)
    forced = tiny_backbone(pos_embed_antialias=True, pos_embed_offset=0.0)
    assert (forced.antialias, forced.offset) == (True, 0.0)


@pytest.mark.parametrize('arch', sorted(ARCHS))
@pytest.mark.parametrize('num_registers', [0, 4])
def test_published_sizes_build(arch, num_registers):
    with torch.device('meta'):
        model = DINOv2(arch, num_registers=num_registers)
    published = dict(small=22_056_192, base=86_579_712, large=304_367_616, giant=1_136_479_232)
    registers = num_registers * model.arch['embed_dims']
    assert sum(p.numel() for p in model.parameters()) == published[arch] + registers


def test_the_side_of_the_learned_grid_is_a_number_of_patches():
    with pytest.raises(ValueError, match='img_size=100 must be a multiple of 14'):
        DINOv2(ARCH, img_size=100)
