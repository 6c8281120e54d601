"""Loads published DINOv2 and DINOv3 weights into a backbone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..layers import interpolate_pos_embed, resample_patch_kernel
from ..wording import first_names
from .detrex_dino import from_detrex_dino, is_detrex_dino
from .layouts import recognise, strip_prefix
from .reading import read_checkpoint, state_dict_of


@dataclass
class LoadReport:
    """What happened to the tensors of a checkpoint.

    Attributes:
        source: File or URL.
        layout: Name of the layout of the checkpoint.
        loaded: Names of the tensors that were loaded unchanged.
        adapted: How tensors were changed to fit, by name.
        left_out: Why tensors were not used, by name.
        missing: Names of the model that the checkpoint does not have.
        licence: What the user should know about the licence of the weights; '' for nothing.
    """

    source: str
    layout: str = ''
    loaded: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    licence: str = ''

    def __str__(self) -> str:
        layout = f' ({self.layout} layout)' if self.layout else ''
        lines = [
            f'{self.source}{layout}: {len(self.loaded)} tensors loaded, {len(self.adapted)} '
            f'adapted, {len(self.left_out)} left out, {len(self.missing)} missing'
        ]
        lines += [f'  adapted {text}' for text in _grouped(self.adapted)]
        lines += [f'  left out {text}' for text in _grouped(self.left_out)]
        if self.missing:
            lines.append(f'  missing, newly initialised: {first_names(self.missing)}')
        if self.licence:
            lines.append(f'  licence: {self.licence}')
        return '\n'.join(lines)


def load_backbone(
    model: nn.Module, source: str | os.PathLike, antialias: bool = False, offset: float = 0.0
) -> LoadReport:
    """Loads published weights in any layout into a backbone.

    The patch kernel is resampled to the patch size of the backbone and the position embedding to
    its grid. Rotary positions take their periods from the file if it has them, and a file without
    biases of queries and values has biases of zero. Everything else must fit as it is.

    Args:
        model: A ``DINOv2`` or ``DINOv3``.
        source: Path or URL of the checkpoint.
        antialias: Whether the position embedding is resampled with antialiasing; see
            ``interpolate_pos_embed``.
        offset: Offset of its resampling; see ``interpolate_pos_embed``.

    Returns:
        What happened to the tensors.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If the checkpoint is unsafe or damaged, has an unknown layout or does not fit;
            the backbone stays as it was.
    """
    content = state_dict_of(read_checkpoint(source), source)
    if is_detrex_dino(content):
        content = from_detrex_dino(content, str(source))
    try:
        layout, state = recognise(content)
    except InputError as error:
        raise InputError(
            f'checkpoint {source} cannot be loaded into the backbone: {error}'
        ) from error
    report = LoadReport(str(source), layout.name, licence=layout.licence)
    report.left_out = layout.reasons(strip_prefix(content))
    if rest := len(content) - len(report.left_out) - len(state):
        names = f'{rest} of {len(content)} tensors'
        report.left_out[names] = 'merged with others, or not part of the backbone'
    expected = model.state_dict()
    state = _adapt(state, expected, antialias, offset, report)
    _require_fit(state, expected, report)
    model.load_state_dict(state)
    report.loaded = [name for name in state if name not in report.adapted]
    return report


def _adapt(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    antialias: bool,
    offset: float,
    report: LoadReport,
) -> dict[str, Tensor]:
    """Changes what may differ between weights and backbone, and notes it in the report."""
    state = dict(state)
    if not any(name.startswith('norm.') for name in expected):
        for name in [name for name in state if name.startswith('norm.')]:
            del state[name]
            report.left_out[name] = 'the backbone has no norm behind its last block'
    name = 'patch_embed.proj.weight'
    old, new = state.get(name), expected[name]
    if old is not None and old.shape[-1] != new.shape[-1]:
        state[name] = resample_patch_kernel(old, new.shape[-1])
        report.adapted[name] = f'patch {old.shape[-1]} -> {new.shape[-1]} by pseudo-inverse'
    name = 'pos_embed'
    old, new = state.get(name), expected.get(name)
    if old is not None and new is not None and old.shape[1] != new.shape[1]:
        side = round((new.shape[1] - 1) ** 0.5)
        grid = interpolate_pos_embed(old[:, 1:], (side, side), antialias, offset)
        state[name] = torch.cat((old[:, :1].float(), grid[None]), dim=1)
        report.adapted[name] = f'{old.shape[1] - 1} -> {side * side} positions'
    if new is None and old is None:
        _adapt_dinov3(state, expected, report)
    return state


def _adapt_dinov3(
    state: dict[str, Tensor], expected: Mapping[str, Tensor], report: LoadReport
) -> None:
    """Adds what some layouts of DINOv3 leave out because it can be computed."""
    name = 'rope_embed.periods'
    exact = expected[name]
    if name not in state:
        state[name] = exact
        report.adapted[name] = 'computed in fp32, the file has none'
    elif state[name].shape == exact.shape and not torch.allclose(
        state[name].float(), exact.cpu(), rtol=1e-6, atol=0
    ):
        error = (state[name].float() / exact.cpu() - 1).abs().max().item()
        report.adapted[name] = f'as in the file, up to {error:.1e} from the exact ones'
    suffix = '.attn.qkv.bias'
    if not any(name.endswith(suffix) for name in state):
        for name, bias in expected.items():
            if name.endswith(suffix):
                state[name] = torch.zeros_like(bias)
                report.adapted[name] = 'zero, the file has no biases of queries and values'


def _require_fit(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], report: LoadReport
) -> None:
    """Raises unless the checkpoint has exactly the tensors of the backbone."""
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    reshaped = [n for n in expected if n in state and state[n].shape != expected[n].shape]
    if not (missing or unknown or reshaped):
        return
    facts = []
    if ('pos_embed' in state) != ('pos_embed' in expected):
        what = 'a' if 'pos_embed' in state else 'no'
        family = 'DINOv2' if 'pos_embed' in state else 'DINOv3'
        facts.append(f'it has {what} position embedding, as {family} has: set type={family!r}')
    registers = [
        len(s['register_tokens'][0]) if 'register_tokens' in s else 0 for s in (state, expected)
    ]
    if registers[0] != registers[1]:
        facts.append(f'it has {registers[0]} register tokens: set num_registers={registers[0]}')
    if 'cls_token' in state and state['cls_token'].shape != expected['cls_token'].shape:
        dims = [s['cls_token'].shape[-1] for s in (state, expected)]
        facts.append(
            f'its tokens have {dims[0]} channels instead of {dims[1]}: set the arch of this size'
        )
    blocks = [
        len({n.split('.')[1] for n in s if n.startswith('blocks.')}) for s in (state, expected)
    ]
    if blocks[0] != blocks[1]:
        facts.append(f'it has {blocks[0]} blocks instead of {blocks[1]}: set the arch of this size')
    for what, names in (
        ('missing', missing),
        ('unknown', unknown),
        ('of a different shape', reshaped),
    ):
        if names:
            facts.append(f'{len(names)} tensors {what} ({first_names(names)})')
    raise InputError(f'checkpoint {report.source} does not fit the backbone: {"; ".join(facts)}')


def _grouped(reasons: Mapping[str, str]) -> list[str]:
    """Returns one line for each reason instead of one for each name."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    return [f'{first_names(names)}: {reason}' for reason, names in by_reason.items()]
