"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from mmengine.runner import save_checkpoint


def commit_file(partial: str | Path, path: str | Path) -> None:
    """Gives a written file its final name, after its content has reached the disk.

    Args:
        partial: The file, in the same folder as ``path``.
        path: Its name from now on; a file of that name is replaced.
    """
    _sync(partial)
    os.replace(partial, path)
    _sync(Path(path).parent)


def write_text(path: str | Path, text: str) -> None:
    """Writes a small text file, whole or not at all."""
    path = Path(path)
    partial = path.with_name(f'.{path.name}.partial')
    partial.write_text(text)
    commit_file(partial, path)


def write_checkpoint(checkpoint: dict, path: str | Path) -> None:
    """Saves a checkpoint to a local file, whole or not at all."""
    path = Path(path)
    partial = path.with_name(f'.{path.name}.partial')
    try:
        save_checkpoint(checkpoint, str(partial))
        commit_file(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
