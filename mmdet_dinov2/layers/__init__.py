"""Building blocks of the models: plain PyTorch, without registries and config dicts."""

from .attention import Attention, segment_attention
from .block import Block, LayerScale, Mlp, SwiGLU
from .carl import carl_weights
from .compiling import TokenwiseModule, tokenwise
from .deformable_operator import deformable_attention, triton_problem
from .dense_attention import dense_attention
from .distillation_losses import dino_loss, entropy, mean_of_images, soft_cross_entropy
from .focal_loss import focal_gap, negative_focal_loss
from .frozen import HoldsFrozenWeights
from .koleo import koleo_loss
from .padding import note_sizes, noted_sizes, padding_mask, valid_cells, zero_padding
from .patch_embed import PatchEmbed, extract_patches, resample_patch_kernel
from .position import RotaryPosition, interpolate_pos_embed, rotate
from .prototypes import PrototypeHead, centred_softmax, sinkhorn_knopp
from .pyramid import GridPyramidLayout, PyramidLayout
from .quality_loss import ia_bce_gap, mal_gap
from .recompute import recomputable
from .tokens import Segments, TokenLayout

__all__ = [
    'Attention',
    'Block',
    'GridPyramidLayout',
    'HoldsFrozenWeights',
    'LayerScale',
    'Mlp',
    'PatchEmbed',
    'PrototypeHead',
    'PyramidLayout',
    'RotaryPosition',
    'Segments',
    'SwiGLU',
    'TokenLayout',
    'TokenwiseModule',
    'carl_weights',
    'centred_softmax',
    'deformable_attention',
    'dense_attention',
    'dino_loss',
    'entropy',
    'extract_patches',
    'focal_gap',
    'ia_bce_gap',
    'interpolate_pos_embed',
    'koleo_loss',
    'mal_gap',
    'mean_of_images',
    'negative_focal_loss',
    'note_sizes',
    'noted_sizes',
    'padding_mask',
    'recomputable',
    'resample_patch_kernel',
    'rotate',
    'segment_attention',
    'sinkhorn_knopp',
    'soft_cross_entropy',
    'tokenwise',
    'triton_problem',
    'valid_cells',
    'zero_padding',
]
