"""Which checkpoint a run goes on from."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from logging import Logger
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, is_main_process
from torch import nn

from ...checkpoint import read_checkpoint
from ...errors import InputError
from ...runs.checkpoints import LAST_CHECKPOINT, find_last_checkpoint
from ...wording import first_names

_NO_CHECKPOINTS = ('best_*', 'nonfinite_*')


@dataclass
class Choice:
    """A checkpoint to go on from.

    Attributes:
        path: The checkpoint.
        rejected: Those that were passed over, and why.
    """

    path: str
    rejected: list[str] = field(default_factory=list)


def has_checkpoints(work_dir: str | Path) -> bool:
    """Whether a folder has, or says to have, a checkpoint to go on from."""
    return (Path(work_dir) / LAST_CHECKPOINT).is_file() or bool(_checkpoints(work_dir))


def agree_on_checkpoint(work_dir: str | Path, model: nn.Module, logger: Logger) -> str | None:
    """Chooses what the processes of a run go on from; the main one decides.

    All processes have to call it.

    Args:
        work_dir: Work folder of the run.
        model: The model, not wrapped.
        logger: Where it is told what was passed over.

    Returns:
        The path of the checkpoint, None in a folder without any.

    Raises:
        InputError: If there are checkpoints, but none can be used.
    """
    chosen: list = [None]
    if is_main_process() and has_checkpoints(work_dir):
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        try:
            chosen = [choose_checkpoint(work_dir, shapes)]
        except InputError as error:
            chosen = [error]
    broadcast_object_list(chosen)
    (choice,) = chosen
    if choice is None:
        return None
    if isinstance(choice, InputError):
        raise choice
    for reason in choice.rejected:
        logger.warning(f'Passed over: {reason}')
    if choice.rejected:
        logger.warning(f'Going on from {choice.path} instead')
    return str(choice.path)


def choose_checkpoint(work_dir: str | Path, shapes: Mapping[str, torch.Size]) -> Choice:
    """Chooses what a run in a folder goes on from.

    That is the checkpoint that ``last_checkpoint`` names; where it is missing, damaged or foreign,
    the intact one of the most steps.

    Args:
        work_dir: Work folder of the run.
        shapes: Shapes of the tensors of the model by name.

    Returns:
        The choice.

    Raises:
        InputError: If no checkpoint of this model is intact.
    """
    last = find_last_checkpoint(work_dir)
    if last is not None and '://' in last:
        return Choice(last)
    rejected = []
    if last is None:
        rejected.append(f'{Path(work_dir) / LAST_CHECKPOINT} is missing or empty')
    else:
        try:
            steps_of(last, shapes)
            return Choice(last)
        except (InputError, OSError) as error:
            rejected.append(str(error))
    intact = []
    for path in _checkpoints(work_dir):
        if last is not None and os.path.abspath(path) == os.path.abspath(last):
            continue
        try:
            intact.append((steps_of(path, shapes), path))
        except (InputError, OSError) as error:
            rejected.append(str(error))
    if not intact:
        raise InputError(
            f'--resume finds no checkpoint in {work_dir} that this training can go on from: '
            f'{"; ".join(rejected)}. Name one with --resume PATH, or start anew without --resume '
            'in another --work-dir'
        )
    return Choice(max(intact)[1], rejected)


def steps_of(path: str | Path, shapes: Mapping[str, torch.Size]) -> int:
    """Steps that the training of a checkpoint had made, after checking every byte of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is damaged, no state of a training, or that of another model.
    """
    check_bytes(path)
    checkpoint = read_checkpoint(path, mmap=True)  # only its shapes are needed
    check_training_state(checkpoint, str(path))
    found = {name.removeprefix('module.'): t.shape for name, t in checkpoint['state_dict'].items()}
    other = [name for name in {**shapes, **found} if shapes.get(name) != found.get(name)]
    if other:
        raise InputError(
            f'checkpoint {path} is that of another model ({first_names(other)} differ)'
        )
    return checkpoint['meta']['iter']


def check_bytes(path: str | Path) -> None:
    """Checks every byte of a local checkpoint, which torch does not do when it loads.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is damaged.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        size = os.path.getsize(path)
        raise InputError(f'checkpoint {path} ({size} bytes) is not whole ({error})') from error
    if damaged is not None:
        raise InputError(f'checkpoint {path} is damaged: {damaged} has another checksum')


def check_training_state(checkpoint: Mapping[str, Any], path: str) -> None:
    """Checks that a checkpoint holds what a training needs to go on.

    Raises:
        InputError: If it does not.
    """
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    missing = [k for k in ('state_dict', 'optimizer', 'message_hub') if k not in checkpoint]
    missing += [f'meta.{k}' for k in ('epoch', 'iter') if k not in meta]
    if missing:
        raise InputError(
            f'checkpoint {path} is not the state of a training, it has no {", ".join(missing)}; '
            'to start a new training from its weights, set load_from instead of --resume'
        )


def _checkpoints(work_dir: str | Path) -> list[Path]:
    """Files of a work folder that a training may go on from, by name."""
    return [
        path
        for path in sorted(Path(work_dir).glob('*.pth'))
        if not path.name.startswith('.') and not any(path.match(p) for p in _NO_CHECKPOINTS)
    ]
