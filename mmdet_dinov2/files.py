"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.runner import save_checkpoint

from .errors import InputError


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
    """Writes a small text file, whole or not at all.

    Raises:
        InputError: If the disk does not take it.
    """
    with _partial_file(path) as partial:
        partial.write_text(text)


def write_checkpoint(checkpoint: dict, path: str | Path) -> None:
    """Saves a checkpoint to a local file, whole or not at all.

    Raises:
        InputError: If the disk does not take it.
    """
    with _partial_file(path) as partial:
        save_checkpoint(checkpoint, str(partial))


@contextmanager
def _partial_file(path: str | Path) -> Iterator[Path]:
    """Gives a name to write to; what was written gets its final name at the end."""
    path = Path(path)
    partial = path.with_name(f'.{path.name}.partial')
    try:
        yield partial
        commit_file(partial, path)
    except OSError as error:
        raise InputError(
            f'{path} could not be written ({error.strerror or error}; {_free_space(path.parent)}); '
            'what was saved before is untouched: make room there, then go on with --resume'
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _free_space(folder: Path) -> str:
    try:
        return f'{shutil.disk_usage(folder).free / 2**30:.1f} GiB free on that disk'
    except OSError:
        return 'the folder cannot be read'


def _sync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
