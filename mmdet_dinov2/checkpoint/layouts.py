"""Names of the published DINOv2 and DINOv3 weights, layout by layout.

Each layout is a table of rules that turn its names into those of the backbone, which are DINOv2's
official ones. What names cannot express (split projections, folded tokens) is a function.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
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
        left_out: Pairs of a pattern that matches a whole name and why the tensor is not loaded.
        licence: What whoever loads the weights should know; '' for Apache-2.0.
    """

    name: str
    signature: str
    rules: tuple[tuple[str, str | None], ...]
    finish: Callable[[State], State] = dict
    left_out: tuple[tuple[str, str], ...] = ()
    licence: str = ''

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
                if not self.reasons([name]):
                    unplaced.append(name)
        if unplaced:
            raise InputError(
                f'the weights look like the {self.name} layout, but {len(unplaced)} of '
                f'{len(state)} names do not belong to it: {first_names(unplaced)}'
            )
        return self.finish(converted)

    def reasons(self, names: Iterable[str]) -> dict[str, str]:
        """Returns why tensors are not loaded, for the names that ``left_out`` has."""
        return {
            name: reason
            for name in names
            for pattern, reason in self.left_out
            if re.fullmatch(pattern, name)
        }


def _join(state: State, whole: str, parts: Sequence[str]) -> State:
    """Stacks weights and biases of layers that one layer has together here, block by block."""
    joined: State = {}
    either = '|'.join(re.escape(part) for part in parts)
    for name, tensor in state.items():
        match = re.fullmatch(rf'(blocks\.\d+\.)({either})\.(weight|bias)', name)
        if match is None:
            joined[name] = tensor
        elif match[2] == parts[0]:
            names = [f'{match[1]}{part}.{match[3]}' for part in parts]
            missing = [part for part in names if part not in state]
            if missing:
                raise InputError(f'{name} comes without {", ".join(missing)}')
            joined[f'{match[1]}{whole}.{match[3]}'] = torch.cat([state[part] for part in names])
    return joined


def _join_qkv(state: State) -> State:
    """Stacks separate query, key and value projections."""
    return _join(state, 'attn.qkv', ('attn.query', 'attn.key', 'attn.value'))


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


def _complete_dinov3(state: State) -> State:
    """Joins the layers of attention and SwiGLU, and takes the bias of the keys out."""
    named: State = {}
    for name, tensor in state.items():
        match = re.fullmatch(r'(blocks\.\d+\.mlp\.)(up|down)\.(weight|bias)', name)
        if match is not None:
            gated = f'{match[1]}w1.weight' in state
            part = {'up': ('fc1', 'w2'), 'down': ('fc2', 'w3')}[match[2]][gated]
            name = f'{match[1]}{part}.{match[3]}'
        named[name] = tensor
        match = re.fullmatch(r'(blocks\.\d+\.attn\.)query\.bias', name)
        if match is not None:
            named.setdefault(f'{match[1]}key.bias', torch.zeros_like(tensor))
    named = _join(named, 'mlp.w12', ('mlp.w1', 'mlp.w2'))
    return _without_key_bias(_join_qkv(named))


def _without_key_bias(state: State) -> State:
    """Sets the bias of the keys to zero, which a mask in the file or the file itself asks for."""
    plain: State = {}
    for name, tensor in state.items():
        if name.endswith('.attn.qkv.bias_mask'):
            queries, keys, values = tensor.chunk(3)
            if not ((queries == 1).all() and (keys == 0).all() and (values == 1).all()):
                raise InputError(f'{name} must be 0 for the keys and 1 for queries and values')
        elif name.endswith('.attn.qkv.bias'):
            queries, keys, values = tensor.chunk(3)
            if f'{name}_mask' not in state and keys.any():
                raise InputError(
                    f'{name} has a bias for the keys and no mask for it: DINOv3 has no such bias'
                )
            plain[name] = torch.cat((queries, torch.zeros_like(keys), values))
        else:
            plain[name] = tensor
    return plain


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

_PRETRAINING = 'used in pretraining only'
_MASK_TOKEN = ((r'(embeddings\.)?mask_token', _PRETRAINING),)
_DINOV3_LEFT_OUT = (
    *_MASK_TOKEN,
    (r'local_cls_norm\.(weight|bias)', _PRETRAINING),  # CLS tokens of small crops
    (r'blocks\.\d+\.attn\.qkv\.bias_mask', 'applied: the keys have no bias'),
    (r'projectors\..+', 'used in distillation only'),  # EUPE
)
_DINOV3_LICENCE = (
    "Meta's DINOv3 weights, and on our reading detectors trained from them, are under the DINOv3 "
    'License, not Apache-2.0 (https://ai.meta.com/resources/models-and-libraries/dinov3-license/); '
    "LingBot-Vision's are under Apache-2.0"
)
_DINOV3_OWN = (
    *(rule for rule in _COMMON if 'pos_embed' not in rule[0]),
    (r'cls_token|register_tokens|rope_embed\.periods', _SAME),
)

# Order matters only where signatures overlap: timm's DINOv3 has registers as its DINOv2 has, and
# its DINOv2 without registers has the official names, except for the gated layers.
LAYOUTS = (
    Layout(
        'official DINOv3',
        r'storage_tokens',
        (
            *_DINOV3_OWN,
            (r'storage_tokens', 'register_tokens'),
            (r'blocks\.\d+\.attn\.qkv\.bias_mask', _SAME),
            (r'blocks\.\d+\.mlp\.w[12]\.(weight|bias)', _SAME),
        ),
        _complete_dinov3,
        _DINOV3_LEFT_OUT,
        _DINOV3_LICENCE,
    ),
    Layout(
        'Hugging Face transformers DINOv3',
        r'layer\.\d+\.attention\.q_proj\.weight',
        (
            (r'embeddings\.(cls_token|register_tokens)', r'\1'),
            (r'embeddings\.patch_embeddings\.(\w+)', r'patch_embed.proj.\1'),
            (r'layer\.(\d+)\.(norm[12])\.(\w+)', r'blocks.\1.\2.\3'),
            (r'layer\.(\d+)\.attention\.q_proj\.(\w+)', r'blocks.\1.attn.query.\2'),
            (r'layer\.(\d+)\.attention\.k_proj\.(\w+)', r'blocks.\1.attn.key.\2'),
            (r'layer\.(\d+)\.attention\.v_proj\.(\w+)', r'blocks.\1.attn.value.\2'),
            (r'layer\.(\d+)\.attention\.o_proj\.(\w+)', r'blocks.\1.attn.proj.\2'),
            (r'layer\.(\d+)\.layer_scale([12])\.lambda1', r'blocks.\1.ls\2.gamma'),
            (r'layer\.(\d+)\.mlp\.gate_proj\.(\w+)', r'blocks.\1.mlp.w1.\2'),
            (r'layer\.(\d+)\.mlp\.(up|down)_proj\.(\w+)', r'blocks.\1.mlp.\2.\3'),
            (r'norm\.(weight|bias)', _SAME),
        ),
        _complete_dinov3,
        _DINOV3_LEFT_OUT,
        _DINOV3_LICENCE,
    ),
    Layout(
        'timm DINOv3',
        r'blocks\.\d+\.gamma_1',
        (
            (r'reg_token', 'register_tokens'),
            (r'(blocks\.\d+)\.attn\.q_bias', r'\1.attn.query.bias'),
            (r'(blocks\.\d+)\.attn\.v_bias', r'\1.attn.value.bias'),
            (r'(blocks\.\d+)\.gamma_([12])', r'\1.ls\2.gamma'),
            (r'(blocks\.\d+)\.mlp\.fc1_g\.(\w+)', r'\1.mlp.w1.\2'),
            (r'(blocks\.\d+)\.mlp\.fc1_x\.(\w+)', r'\1.mlp.w2.\2'),
            (r'(blocks\.\d+)\.mlp\.fc2\.(\w+)', r'\1.mlp.down.\2'),
            *_DINOV3_OWN,
        ),
        _complete_dinov3,
        _DINOV3_LEFT_OUT,
        _DINOV3_LICENCE,
    ),
    Layout(
        'DINOv3 of this project',
        r'rope_embed\.periods',
        _DINOV3_OWN,
        _without_key_bias,
        licence=_DINOV3_LICENCE,
    ),
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
        _MASK_TOKEN,
    ),
    Layout(
        'mmpretrain',
        r'patch_embed\.projection\.weight',
        (
            (r'cls_token|pos_embed|register_tokens', _SAME),
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
        left_out=_MASK_TOKEN,
    ),
    Layout(
        'official DINOv2',
        r'patch_embed\.proj\.weight',
        (
            *_COMMON,
            (r'register_tokens', _SAME),
            # Training checkpoints have the blocks in chunks: blocks.CHUNK.BLOCK, where the number
            # of the block counts from the first one of all.
            (r'blocks\.\d+\.(\d+)\.((norm|ls)[12]|attn|mlp)\.(.+)', r'blocks.\1.\2.\4'),
        ),
        _name_gated_layers,
        _MASK_TOKEN,
    ),
)

# Prefixes that whole models give the names of their backbone.
_PREFIXES = (
    'backbone.', 'module.', 'dinov2.', 'dinov2_with_registers.', 'model.', 'teacher.',
    'vision_encoder.',
)  # fmt: skip


def recognise(state_dict: Mapping[str, Tensor]) -> tuple[Layout, State]:
    """Finds the layout of published DINOv2 or DINOv3 weights and renames them.

    Args:
        state_dict: Tensors of a backbone in one of the layouts of :data:`LAYOUTS`, or of a whole
            model that holds a backbone under 'backbone.' or another usual prefix; the rest of the
            model is left out.

    Returns:
        The layout, and the tensors under the names of this project. Patch kernel and position
        embedding keep their sizes. What only pretraining needs is dropped.

    Raises:
        InputError: If the layout is unknown, or names of several layouts are mixed.
    """
    state = strip_prefix(state_dict)
    for layout in LAYOUTS:
        if any(re.fullmatch(layout.signature, name) for name in state):
            return layout, layout.convert(state)
    known = ', '.join(layout.name for layout in LAYOUTS)
    raise InputError(
        f'these are not DINOv2 or DINOv3 weights in a known layout ({known}); '
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
