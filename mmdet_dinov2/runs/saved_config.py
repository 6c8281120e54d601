"""Reads the config that a run saved beside its logs, without running it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config.plain import NotPlainError, read_plain_config
from ..errors import InputError
from .run_log import find_logs


def find_config(work_dir: str | Path) -> Path | None:
    """Returns the resolved config of the last run in a work folder, or ``None``."""
    work_dir = Path(work_dir)
    saved = [log.with_name('config.py') for log in reversed(find_logs(work_dir))]
    saved += sorted(work_dir.glob('*.py'), key=lambda path: path.stat().st_mtime, reverse=True)
    return next((path for path in saved if path.is_file()), None)


def read_saved_config(path: str | Path) -> dict[str, Any]:
    """Reads a resolved config, as a run saves it, as data; see ``read_plain_config``.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is not a resolved config, for example because it has a ``_base_``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'config {path} does not exist; check the path')
    try:
        return read_plain_config(path.read_text(encoding='utf-8'))
    except (NotPlainError, UnicodeDecodeError) as error:
        raise InputError(
            f'{path} is not a resolved config as a run saves it ({error}); name the one in the log '
            'folder of the run, vis_data/config.py'
        ) from error


def planned_end(cfg: Mapping[str, Any], epoch_length: int | None) -> int | None:
    """Returns the number of optimizer steps of the training, or ``None`` if it is not known."""
    train = cfg.get('train_cfg') or {}
    if 'max_epochs' in train:
        return train['max_epochs'] * epoch_length if epoch_length else None
    return train.get('max_iters')


def planned_drops(cfg: Mapping[str, Any], epoch_length: int | None) -> list[int]:
    """Returns the steps at which a config lowers the learning rate to half or less at once."""
    parts = cfg.get('param_scheduler') or []
    steps = []
    for part in [parts] if isinstance(parts, Mapping) else parts:
        if part.get('type') != 'MultiStepLR' or part.get('gamma', 0.1) > 0.5:
            continue
        unit = epoch_length if part.get('by_epoch', True) else 1
        begin, end = part.get('begin', 0), part.get('end', math.inf)
        # Milestones count from the beginning of the scheduler.
        inside = [begin + m for m in part.get('milestones', ()) if begin + m < end]
        steps += [milestone * unit for milestone in inside] if unit else []
    return sorted(steps)


def plan_of(log: str | Path, epoch_length: int | None) -> tuple[int | None, list[int]]:
    """Returns the end of the training and the planned drops, from the config saved with a log.

    Args:
        log: A work folder, or a file in a log folder.
        epoch_length: Number of optimizer steps in an epoch, if known.

    Returns:
        As ``planned_end`` and ``planned_drops``; ``None`` and an empty list without a readable
        config.
    """
    log = Path(log)
    path = find_config(log) if log.is_dir() else log.with_name('config.py')
    try:
        cfg = read_saved_config(path) if path else {}
        return planned_end(cfg, epoch_length), planned_drops(cfg, epoch_length)
    except (FileNotFoundError, InputError):
        return None, []
