"""Chooses the checkpoint that a run resumes from."""

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

# Files that hold weights without the rest of a training.
_WEIGHTS_ALONE = ('best_*', 'nonfinite_*')


@dataclass
class Choice:
    """A checkpoint to resume from.

    Attributes:
        path: Path of the checkpoint.
        rejected: Why other checkpoints were passed over, a sentence for each.
    """

    path: str
    rejected: list[str] = field(default_factory=list)


def has_checkpoints(work_dir: str | Path) -> bool:
    """Returns whether a folder has a checkpoint to resume from, or a file that names one."""
    return (Path(work_dir) / LAST_CHECKPOINT).is_file() or bool(_checkpoints(work_dir))


def agree_on_checkpoint(work_dir: str | Path, model: nn.Module, logger: Logger) -> str | None:
    """Chooses the checkpoint that all processes of a run resume from; the main process decides.

    All processes must call it.

    Args:
        work_dir: Work folder of the run.
        model: The model, not wrapped.
        logger: Receives a warning for each checkpoint that was passed over.

    Returns:
        The path of the checkpoint; None in a folder without any.

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
        logger.warning(f'passed over: {reason}')
    if choice.rejected:
        logger.warning(f'resuming from {choice.path} instead')
    return str(choice.path)


def choose_checkpoint(work_dir: str | Path, shapes: Mapping[str, torch.Size]) -> Choice:
    """Chooses the checkpoint that a run in a folder resumes from.

    This is the one that ``last_checkpoint`` names. If it is missing, damaged or that of a different
    model, it is the intact one with the most steps.

    Args:
        work_dir: Work folder of the run.
        shapes: Shapes of the tensors of the model, by name.

    Returns:
        The checkpoint, and those that were passed over.

    Raises:
        InputError: If there is no intact checkpoint of this model.
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
            f'--resume found no checkpoint in {work_dir} that this training can resume from: '
            f'{"; ".join(rejected)}; name one with --resume PATH, or start from scratch without '
            '--resume in a different --work-dir'
        )
    return Choice(max(intact)[1], rejected)


def steps_of(path: str | Path, shapes: Mapping[str, torch.Size]) -> int:
    """Returns the steps that the training of a checkpoint has made, and checks every byte of it.

    Args:
        path: Path of the checkpoint.
        shapes: Shapes of the tensors of the model, by name.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If it is damaged, is not the state of a training, or is that of a different
            model.
    """
    check_bytes(path)
    checkpoint = read_checkpoint(path, mmap=True)  # only the shapes are needed
    check_training_state(checkpoint, str(path))
    found = {name.removeprefix('module.'): t.shape for name, t in checkpoint['state_dict'].items()}
    other = [name for name in {**shapes, **found} if shapes.get(name) != found.get(name)]
    if other:
        raise InputError(
            f'checkpoint {path} is that of a different model ({first_names(other)} differ)'
        )
    return checkpoint['meta']['iter']


def check_bytes(path: str | Path) -> None:
    """Checks every byte of a local checkpoint, as torch does not do.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If it is damaged, or has a format for weights alone.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    if os.path.splitext(path)[1] == '.safetensors':
        raise InputError(
            f'checkpoint {path} holds weights, not the state of a training; to start a new '
            'training from them, set load_from instead of --resume'
        )
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        size = os.path.getsize(path)
        raise InputError(f'checkpoint {path} ({size} bytes) is not complete ({error})') from error
    if damaged is not None:
        raise InputError(f'checkpoint {path} is damaged: {damaged} has a different checksum')


def check_training_state(checkpoint: Mapping[str, Any], path: str) -> None:
    """Checks that a checkpoint holds what a training needs to resume.

    Raises:
        InputError: If it lacks a part of it.
    """
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    missing = [k for k in ('state_dict', 'optimizer', 'message_hub') if k not in checkpoint]
    missing += [f'meta.{k}' for k in ('epoch', 'iter') if k not in meta]
    if missing:
        raise InputError(
            f'checkpoint {path} is not the state of a training, it lacks {", ".join(missing)}; to '
            'start a new training from its weights, set load_from instead of --resume'
        )


def _checkpoints(work_dir: str | Path) -> list[Path]:
    """Returns the files of a work folder that a training may resume from, by name."""
    return [
        path
        for path in sorted(Path(work_dir).glob('*.pth'))
        if not path.name.startswith('.') and not any(path.match(p) for p in _WEIGHTS_ALONE)
    ]
