"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.runner import save_checkpoint

from .errors import InputError


@contextmanager
def whole_file(path: str | Path, remedy: str = 'make room there') -> Iterator[Path]:
    """Replaces a file only after its new content has reached the disk.

    Args:
        path: The file. Its folder must exist.
        remedy: What to do if it cannot be written, for the message.

    Yields:
        Path of a temporary file to write, in the same folder. It gets its final name at the end of
        the block, and is removed if the block fails.

    Raises:
        InputError: If the file cannot be written, for example because the disk is full.
    """
    path = Path(path)
    # One name for all attempts: the next one overwrites what a killed process left behind.
    partial = path.with_name(f'.{path.name}.partial')
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)
    except OSError as error:
        raise InputError(
            f'{path} could not be written ({error.strerror or error}; {_free_space(path.parent)}); '
            f'what was saved before is untouched: {remedy}'
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes a small text file in UTF-8, whole or not at all.

    Raises:
        InputError: If the file cannot be written.
    """
    with whole_file(path) as partial:
        partial.write_text(text, encoding='utf-8')


def write_checkpoint(checkpoint: dict, path: str | Path) -> None:
    """Saves a checkpoint to a local file, whole or not at all.

    Raises:
        InputError: If the file cannot be written.
    """
    with whole_file(path, 'make room there, then resume with --resume') as partial:
        save_checkpoint(checkpoint, str(partial))


def sha256_of(path: str | Path) -> str:
    """Returns the SHA-256 of a file as hexadecimal text."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


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
