"""Names of the published DINOv2 weights, layout by layout.

Each layout is a table of rules that turn its names into those of the ``DINOv2`` backbone, which are
the official ones. What names cannot express (split projections, folded tokens) is a function.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..wording import first_names

State = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """A way to name the weights.

    Attributes:
        name: Shown in reports.
        signature: Pattern of a name that only this layout has.
        rules: Pairs of a pattern that matches a whole name and the new name, or None to drop the
            tensor.
        finish: Function that completes the renamed tensors.
    """

    name: str
    signature: str
    rules: tuple[tuple[str, str | None], ...]
    finish: Callable[[State], State] = dict

    def convert(self, state: Mapping[str, Tensor]) -> State:
        """Renames all tensors.

        Raises:
            InputError: If no rule matches a name.
        """
        converted: State = {}
        unplaced = []
        for name, tensor in state.items():
            for pattern, replacement in self.rules:
                match = re.fullmatch(pattern, name)
                if match:
                    if replacement is not None:
                        converted[match.expand(replacement)] = tensor
                    break
            else:
                unplaced.append(name)
        if unplaced:
            raise InputError(
                f'the weights look like the {self.name} layout, but {len(unplaced)} of '
                f'{len(state)} names do not belong to it: {first_names(unplaced)}'
            )
        return self.finish(converted)


def _join_qkv(state: State) -> State:
    """Stacks separate query, key and value projections."""
    joined: State = {}
    for name, tensor in state.items():
        match = re.fullmatch(r'(blocks\.\d+\.attn\.)(query|key|value)\.(weight|bias)', name)
        if match is None:
            joined[name] = tensor
        elif match[2] == 'query':
            parts = [f'{match[1]}{part}.{match[3]}' for part in ('query', 'key', 'value')]
            missing = [part for part in parts if part not in state]
            if missing:
                raise InputError(f'the query {name} comes without {", ".join(missing)}')
            joined[f'{match[1]}qkv.{match[3]}'] = torch.cat([state[part] for part in parts])
    return joined


def _unfold_cls_position(state: State) -> State:
    """Adds a CLS entry to a position embedding of patches only.

    timm adds the CLS entry to the CLS token in models with registers.
    """
    pos_embed = state['pos_embed']
    side = round(pos_embed.shape[1] ** 0.5)
    if side * side == pos_embed.shape[1]:
        state = dict(state, pos_embed=torch.cat((torch.zeros_like(pos_embed[:, :1]), pos_embed), 1))
    return _name_gated_layers(state)


def _name_gated_layers(state: State) -> State:
    """Names the layers of SwiGLU, which timm also calls fc1 and fc2; fc1 is twice as wide there."""
    named: State = {}
    for name, tensor in state.items():
        match = re.fullmatch(r'(blocks\.\d+\.mlp\.)(fc1|fc2)\.(weight|bias)', name)
        if match is not None:
            wide = state[f'{match[1]}fc1.weight'].shape[0]
            narrow = state[f'{match[1]}fc2.weight'].shape[1]
            if wide == 2 * narrow:
                name = f'{match[1]}{"w12" if match[2] == "fc1" else "w3"}.{match[3]}'
        named[name] = tensor
    return named


_SAME = r'\g<0>'
_COMMON = (
    (r'cls_token|pos_embed', _SAME),
    (r'patch_embed\.proj\.(weight|bias)', _SAME),
    (r'blocks\.\d+\.norm[12]\.(weight|bias)', _SAME),
    (r'blocks\.\d+\.attn\.(qkv|proj)\.(weight|bias)', _SAME),
    (r'blocks\.\d+\.ls[12]\.gamma', _SAME),
    (r'blocks\.\d+\.mlp\.(fc1|fc2|w12|w3)\.(weight|bias)', _SAME),
    (r'norm\.(weight|bias)', _SAME),
)

# Order matters only where signatures overlap: timm's models without registers have the official
# names, except for the gated layers.
LAYOUTS = (
    Layout(
        'timm',
        r'reg_token',
        (*_COMMON, (r'reg_token', 'register_tokens')),
        _unfold_cls_position,
    ),
    Layout(
        'Hugging Face transformers',
        r'embeddings\.position_embeddings',
        (
            (r'embeddings\.cls_token', 'cls_token'),
            (r'embeddings\.mask_token', None),
            (r'embeddings\.register_tokens', 'register_tokens'),
            (r'embeddings\.position_embeddings', 'pos_embed'),
            (r'embeddings\.patch_embeddings\.projection\.(\w+)', r'patch_embed.proj.\1'),
            (r'encoder\.layer\.(\d+)\.(norm[12])\.(\w+)', r'blocks.\1.\2.\3'),
            (
                r'encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(\w+)',
                r'blocks.\1.attn.\2.\3',
            ),
            (r'encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)', r'blocks.\1.attn.proj.\2'),
            (r'encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1', r'blocks.\1.ls\2.gamma'),
            (r'encoder\.layer\.(\d+)\.mlp\.(fc[12])\.(\w+)', r'blocks.\1.mlp.\2.\3'),
            (r'encoder\.layer\.(\d+)\.mlp\.weights_in\.(\w+)', r'blocks.\1.mlp.w12.\2'),
            (r'encoder\.layer\.(\d+)\.mlp\.weights_out\.(\w+)', r'blocks.\1.mlp.w3.\2'),
            (r'layernorm\.(\w+)', r'norm.\1'),
        ),
        _join_qkv,
    ),
    Layout(
        'mmpretrain',
        r'patch_embed\.projection\.weight',
        (
            (r'cls_token|pos_embed|register_tokens', _SAME),
            (r'mask_token', None),
            (r'patch_embed\.projection\.(\w+)', r'patch_embed.proj.\1'),
            (r'layers\.(\d+)\.ln([12])\.(\w+)', r'blocks.\1.norm\2.\3'),
            (r'layers\.(\d+)\.attn\.(qkv|proj)\.(\w+)', r'blocks.\1.attn.\2.\3'),
            (r'layers\.(\d+)\.attn\.gamma1\.weight', r'blocks.\1.ls1.gamma'),
            (r'layers\.(\d+)\.ffn\.layers\.0\.0\.(\w+)', r'blocks.\1.mlp.fc1.\2'),
            (r'layers\.(\d+)\.ffn\.layers\.1\.(\w+)', r'blocks.\1.mlp.fc2.\2'),
            (r'layers\.(\d+)\.ffn\.(w12|w3)\.(\w+)', r'blocks.\1.mlp.\2.\3'),
            (r'layers\.(\d+)\.ffn\.gamma2\.weight', r'blocks.\1.ls2.gamma'),
            (r'ln1\.(\w+)', r'norm.\1'),
        ),
    ),
    Layout(
        'official DINOv2',
        r'patch_embed\.proj\.weight',
        (*_COMMON, (r'register_tokens', _SAME), (r'mask_token', None)),
        _name_gated_layers,
    ),
)

# Prefixes that whole models give the names of their backbone.
_PREFIXES = ('backbone.', 'module.', 'dinov2.', 'dinov2_with_registers.', 'model.', 'teacher.')


def recognise(state_dict: Mapping[str, Tensor]) -> tuple[Layout, State]:
    """Finds the layout of published DINOv2 weights and renames them.

    Args:
        state_dict: Tensors of a backbone in one of the layouts of :data:`LAYOUTS`, or of a whole
            model that holds a backbone under 'backbone.' or another usual prefix; the rest of the
            model is left out.

    Returns:
        The layout, and the tensors under the names of this project. Patch kernel and position
        embedding keep their sizes. A mask token is dropped.

    Raises:
        InputError: If the layout is unknown, or names of several layouts are mixed.
    """
    state = strip_prefix(state_dict)
    for layout in LAYOUTS:
        if any(re.fullmatch(layout.signature, name) for name in state):
            return layout, layout.convert(state)
    raise InputError(
        f'these are not DINOv2 weights in a known layout ({", ".join(x.name for x in LAYOUTS)}); '
        f'names: {first_names(list(state)) or "none"}'
    )


def strip_prefix(state_dict: Mapping[str, Tensor]) -> State:
    """Returns the tensors of a backbone without the prefix that a whole model gives their names."""
    state = dict(state_dict)
    for _ in _PREFIXES:
        prefix = next(
            (p for p in _PREFIXES if any(re.match(re.escape(p), name) for name in state)), None
        )
        if prefix is None:
            break
        state = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    return state
