"""The published detector of detrex at a tiny size: its tensors under detrex's names, its config."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .tiny import ARCH, NUM_CLASSES, detector_cfg

GROUPS = 8
# Names and shapes of all tensors of https://huggingface.co/dgcnz/dinov2_vitdet_DINO_12ep.
SHAPES: dict[str, list[int]] = json.loads(
    Path(__file__).with_name('data').joinpath('detrex_dino_dinov2.json').read_text()
)
_DIMS = 32
_OF_VIT = {768: 32, 2304: 96, 3072: 64, 1025: 17}
_OF_REST = {768: 96, 512: 64, 384: 16, 256: _DIMS, 2048: 64}
_LAYERS = (
    ('blocks', ARCH['num_layers']), ('encoder.layers', 1), ('decoder.layers', 2),
    ('class_embed', 3), ('bbox_embed', 3),
)  # fmt: skip


def tiny_shapes(num_queries: int, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Returns names and shapes with fewer layers and channels."""
    counts = {**_OF_REST, 900: num_queries, 80: num_classes}
    shapes = {}
    for name, shape in SHAPES.items():
        parts = name.split('.')
        numbers = [
            (int(parts[i + 1]), count)
            for i in range(len(parts) - 1)
            for layers, count in _LAYERS
            if parts[i + 1].isdigit() and '.'.join(parts[: i + 1]).endswith(layers)
        ]
        if any(number >= count for number, count in numbers):
            continue
        widths = _OF_VIT if name.startswith('backbone.net.') else counts
        if name.startswith('backbone.simfp'):
            widths = {**widths, 768: ARCH['embed_dims']}
        small = [widths.get(n, n) for n in shape]
        if 'sampling_offsets' in name or 'attention_weights' in name:
            small[0] = shape[0]  # heads, levels and points, not channels
        shapes[name] = tuple(small)
    return shapes


def tiny_state(num_queries: int, num_classes: int = NUM_CLASSES) -> dict[str, Tensor]:
    """Makes random tensors of a tiny model; see :func:`random_state`."""
    return random_state(tiny_shapes(num_queries, num_classes))


def random_state(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Makes random tensors under detrex's names; the heads within the transformer are aliases.

    All queries start with the same content, so that two proposals that are almost equally good may
    change places, and no bias lifts the scores of proposals.
    """
    state = {}
    for name, shape in shapes.items():
        if name.startswith(('transformer.decoder.class_embed', 'transformer.decoder.bbox_embed')):
            continue
        if name.endswith('gamma'):
            tensor = torch.rand(shape) + 0.5
        elif len(shape) > 1:
            tensor = torch.randn(shape) * torch.tensor(shape[1:]).prod() ** -0.5
        else:
            tensor = 0.1 * torch.randn(shape) + name.endswith('weight')  # of a norm
        state[name] = tensor
    queries = state['transformer.tgt_embed.weight']
    queries[:] = queries[0].clone()
    state['transformer.enc_output.bias'].zero_()
    last = max(int(name.split('.')[1]) for name in state if name.startswith('class_embed'))
    state[f'class_embed.{last}.bias'].zero_()
    for layer in range(3):
        state[f'bbox_embed.{last}.layers.{layer}.bias'].zero_()
    for name in [name for name in state if name.startswith(('class_embed', 'bbox_embed'))]:
        state[f'transformer.decoder.{name}'] = state[name]
    return state


def tiny_published_cfg(num_queries: int, num_classes: int = NUM_CLASSES) -> dict:
    """Returns the config of the model of :func:`tiny_state`."""
    cfg = detector_cfg(
        num_queries,
        dict(patch_size=16, pos_embed_antialias=True, pos_embed_offset=0.0, final_norm=False),
    )
    cfg['coordinates'] = 'grid'
    cfg['neck'].update(pooling='floor', mapper_groups=GROUPS)
    cfg['bbox_head'].update(num_classes=num_classes, reference_eps=1e-3)
    return cfg
