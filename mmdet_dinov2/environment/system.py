"""Checks the machine: interpreter and disk."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from .commands import apt_install
from .problem import Problem

_PYTHONS = ((3, 10), (3, 12))
# Two checkpoints of the largest size with their optimizer: the next one is written beside the last.
_ENOUGH_DISK = 20 * 2**30
# Less than one of the smallest size.
_LITTLE_DISK = 2**29


def check_system(work_dir: str | Path = '.') -> Iterator[Problem]:
    """Checks the interpreter and the disk of the work folder.

    Args:
        work_dir: Folder for checkpoints, which need not exist yet.
    """
    version = '.'.join(map(str, sys.version_info[:3]))
    oldest, newest = ('.'.join(map(str, v)) for v in _PYTHONS)
    if not _PYTHONS[0] <= sys.version_info[:2] <= _PYTHONS[1]:
        yield Problem(
            'error',
            f'Python is {version}, but {oldest} to {newest} are supported',
            f'make env PYTHON=python{newest} VENV=.venv-{newest}',
        )
    else:
        yield Problem('info', f'Python {version} at {sys.executable}')
    short = '.'.join(map(str, sys.version_info[:2]))
    lacking = [name for name in ('venv', 'ensurepip') if importlib.util.find_spec(name) is None]
    if lacking:
        yield Problem(
            'warning',
            f'this Python cannot create virtual environments, as it lacks {" and ".join(lacking)}',
            apt_install(f'python{short}-venv'),
        )
    yield from _check_disk(Path(work_dir))


def _check_disk(work_dir: Path) -> Iterator[Problem]:
    folder = work_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        yield Problem(
            'error', f'{folder} is not writable', 'name a different folder with --work-dir'
        )
        return
    free = shutil.disk_usage(folder).free
    text = f'{free / 2**30:.1f} GiB free for {work_dir}'
    if free < _LITTLE_DISK:
        yield Problem('error', text, 'make room there, or name a different folder with --work-dir')
    elif free < _ENOUGH_DISK:
        yield Problem(
            'warning',
            f'{text}; three checkpoints of ViT-L with their optimizer need up to 12 GiB',
            'make room there, or keep fewer: default_hooks.checkpoint.max_keep_ckpts=1',
        )
    else:
        yield Problem('info', text)
