"""Names of detrex's DINO on DINOv2 with a simple feature pyramid, as dgcnz/edge published it.

The only published DINOv2 + ViTDet + DINO detector (https://huggingface.co/dgcnz/dinov2_vitdet_DINO_12ep)
has these names. :data:`PUBLISHED_CONFIG` is its model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from mmdet.datasets import CocoDataset
from torch import Tensor

from ..errors import InputError
from ..wording import first_names
from .layouts import Layout, State

PUBLISHED_CONFIG = 'dino_dinov2_b_12ep_published'

_W = r'(weight|bias)'
_LAYER = r'(?:encoder|decoder)\.layers\.\d+'


def _pyramid_rules() -> Iterator[tuple[str, str]]:
    """Yields the rules of the levels of the pyramid.

    detrex numbers them by the logarithm of their stride. The layers of a level begin with the
    resampling: a transposed convolution, nothing on level 4, and a pooling on level 5.
    """
    yield rf'backbone\.simfp_3\.0\.{_W}', r'neck.resamplers.0.0.\1'
    for index, (level, first) in enumerate(((3, 1), (4, 0), (5, 1))):
        for part, layer in (('projections', first), ('smoothers', first + 1)):
            theirs, ours = rf'backbone\.simfp_{level}\.{layer}\.', f'neck.{part}.{index}.'
            yield theirs + 'weight', ours + '0.weight'
            yield theirs + rf'norm\.{_W}', ours + r'1.\1'


DETREX_DINO = Layout(
    'detrex DINO',
    r'transformer\.enc_output\.weight',
    (
        (r'pixel_(mean|std)', None),
        (r'backbone\.net\.timm_model\.model\.(.+)', r'backbone.\1'),
        *_pyramid_rules(),
        (rf'neck\.convs\.(\d+)\.conv\.{_W}', r'neck.mappers.\1.0.\2'),
        (rf'neck\.convs\.(\d+)\.norm\.{_W}', r'neck.mappers.\1.1.\2'),
        (r'transformer\.level_embeds', 'level_embed'),
        (r'transformer\.tgt_embed\.weight', 'query_embedding.weight'),
        (rf'transformer\.enc_output\.{_W}', r'memory_trans_fc.\1'),
        (rf'transformer\.enc_output_norm\.{_W}', r'memory_trans_norm.\1'),
        (rf'transformer\.({_LAYER})\.attentions\.0\.(.+)', r'\1.self_attn.\2'),
        (rf'transformer\.({_LAYER})\.attentions\.1\.(.+)', r'\1.cross_attn.\2'),
        (rf'transformer\.({_LAYER})\.ffns\.0\.(.+)', r'\1.ffn.\2'),
        (rf'transformer\.({_LAYER}\.norms\..+)', r'\1'),
        (r'transformer\.(decoder\.(?:ref_point_head\.layers\.\d+|norm)\..+)', r'\1'),
        # Checked before: the same tensors as those outside the transformer.
        (r'transformer\.decoder\.(class|bbox)_embed\..+', None),
        (rf'class_embed\.(\d+)\.{_W}', r'bbox_head.cls_branches.\1.\2'),
        # Between the layers of a branch are activations.
        (rf'bbox_embed\.(\d+)\.layers\.0\.{_W}', r'bbox_head.reg_branches.\1.0.\2'),
        (rf'bbox_embed\.(\d+)\.layers\.1\.{_W}', r'bbox_head.reg_branches.\1.2.\2'),
        (rf'bbox_embed\.(\d+)\.layers\.2\.{_W}', r'bbox_head.reg_branches.\1.4.\2'),
        (r'label_enc\.weight', 'dn_query_generator.label_embedding.weight'),
    ),
)
_ALIAS = re.compile(r'transformer\.decoder\.((?:class|bbox)_embed\..+)')
_HEADS = re.compile(r'(class|bbox)_embed\..+')
# What images are normalised with: detrex's numbers, and those of the configs.
_PIXELS = dict(pixel_mean=(123.675, 116.28, 103.53), pixel_std=(58.395, 57.12, 57.375))


def is_detrex_dino(state_dict: Mapping[str, Tensor]) -> bool:
    """Returns whether tensors have the names of a DINO of detrex."""
    return any(re.fullmatch(DETREX_DINO.signature, name) for name in state_dict)


def from_detrex_dino(state_dict: Mapping[str, Tensor], source: str) -> State:
    """Renames the tensors of detrex's detector to those of ``PaddingAwareDINO``.

    detrex's transformer holds the heads a second time. These aliases are dropped after a
    comparison; a file without any of them is complete.

    Args:
        state_dict: All tensors of the file.
        source: Where they come from, for messages.

    Returns:
        The tensors under the names of this project.

    Raises:
        InputError: If an alias is missing or differs from its original, images are normalised with
            different numbers, or a name is unknown.
    """
    if any('.rel_pos_' in name for name in state_dict):
        raise InputError(
            f"{source} is a DINO of detrex on detectron2's ViT, whose attention has relative "
            'positions (rel_pos_h, rel_pos_w), which the backbones of this project do not have; of '
            "detrex's ViT detectors, only those on DINOv2 can be loaded"
        )
    _check_aliases(state_dict, source)
    for name, expected in _PIXELS.items():
        if name in state_dict and state_dict[name].flatten().tolist() != _rounded(expected):
            raise InputError(
                f'{source} normalises images with {name}={state_dict[name].flatten().tolist()} '
                f'instead of {list(expected)}, so the published detector is a different one'
            )
    try:
        return DETREX_DINO.convert(state_dict)
    except InputError as error:
        raise InputError(f'{source} cannot be loaded: {error}') from error


def detrex_classes(state_dict: Mapping[str, Tensor]) -> tuple[str, ...] | None:
    """Returns the classes of detrex's detector, which its files do not name.

    80 classes are those of COCO, in the order of their category ids; None for other numbers.
    """
    heads = [len(t) for name, t in state_dict.items() if name == 'class_embed.0.bias']
    coco = CocoDataset.METAINFO['classes']
    return coco if heads == [len(coco)] else None


def _check_aliases(state_dict: Mapping[str, Tensor], source: str) -> None:
    """Raises unless the heads within the transformer equal those outside, one by one."""
    aliases = {match[1]: name for name in state_dict if (match := _ALIAS.fullmatch(name))}
    heads = [name for name in state_dict if _HEADS.fullmatch(name)]
    lonely = [f'transformer.decoder.{name}' for name in heads if name not in aliases]
    lonely = [*(name for name in aliases if name not in heads), *(lonely if aliases else ())]
    if lonely:
        raise InputError(
            f'{source} should hold the heads twice, as class_embed and bbox_embed and within '
            f'transformer.decoder, but lacks {len(lonely)} tensors ({first_names(lonely)}); get it '
            'again'
        )
    different = [
        alias
        for name, alias in aliases.items()
        if state_dict[name].shape != state_dict[alias].shape
        or not torch.equal(state_dict[name], state_dict[alias])
    ]
    if different:
        raise InputError(
            f'{source} holds the heads twice, but {len(different)} of {len(aliases)} tensors in '
            f'transformer.decoder differ from those outside of it ({first_names(different)}), and '
            'which of them were trained is not known; get it again'
        )


def _rounded(numbers: tuple[float, ...]) -> list[float]:
    return torch.tensor(numbers).tolist()
