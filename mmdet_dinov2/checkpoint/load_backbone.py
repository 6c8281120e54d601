"""Loads published DINOv2 weights into a backbone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..layers import interpolate_pos_embed, resample_patch_kernel
from ..wording import first_names
from .layouts import recognise
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
    """

    source: str
    layout: str = ''
    loaded: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        layout = f' ({self.layout} layout)' if self.layout else ''
        lines = [
            f'{self.source}{layout}: {len(self.loaded)} tensors loaded, {len(self.adapted)} '
            f'adapted, {len(self.left_out)} left out, {len(self.missing)} missing'
        ]
        lines += [f'  adapted {name}: {how}' for name, how in self.adapted.items()]
        lines += [f'  left out {text}' for text in _grouped(self.left_out)]
        if self.missing:
            lines.append(f'  missing, newly initialised: {first_names(self.missing)}')
        return '\n'.join(lines)


def load_backbone(
    model: nn.Module, source: str | os.PathLike, antialias: bool, offset: float
) -> LoadReport:
    """Loads published weights in any layout into a backbone.

    The patch kernel is resampled to the patch size of the backbone and the position embedding to
    its grid; everything else must fit as it is.

    Args:
        model: A ``DINOv2``.
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
    try:
        layout, state = recognise(content)
    except InputError as error:
        raise InputError(
            f'checkpoint {source} cannot be loaded into the backbone: {error}'
        ) from error
    report = LoadReport(str(source), layout.name)
    expected = model.state_dict()
    state = _adapt(state, expected, antialias, offset, report)
    _require_fit(state, expected, report)
    model.load_state_dict(state)
    report.loaded = [name for name in state if name not in report.adapted]
    if len(content) > len(state):
        names = f'{len(content) - len(state)} of {len(content)} tensors'
        report.left_out[names] = 'not part of the backbone, merged, or unused in detection'
    return report


def _adapt(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    antialias: bool,
    offset: float,
    report: LoadReport,
) -> dict[str, Tensor]:
    """Resamples the patch kernel and the position embedding to the sizes of the backbone."""
    state = dict(state)
    name = 'patch_embed.proj.weight'
    old, new = state.get(name), expected[name]
    if old is not None and old.shape[-1] != new.shape[-1]:
        state[name] = resample_patch_kernel(old, new.shape[-1])
        report.adapted[name] = f'patch {old.shape[-1]} -> {new.shape[-1]} by pseudo-inverse'
    name = 'pos_embed'
    old, new = state.get(name), expected[name]
    if old is not None and old.shape[1] != new.shape[1]:
        side = round((new.shape[1] - 1) ** 0.5)
        grid = interpolate_pos_embed(old[:, 1:], (side, side), antialias, offset)
        state[name] = torch.cat((old[:, :1].float(), grid[None]), dim=1)
        report.adapted[name] = f'{old.shape[1] - 1} -> {side * side} positions'
    return state


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
