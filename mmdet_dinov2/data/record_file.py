"""Values that are computed once for each file and kept on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

_RECORDS, _KEYS, _LOCK = 'records.bin', 'keys.txt', '.lock'


def file_key(path: str | os.PathLike) -> str:
    """Returns what changes when a file does: its path, size and time.

    Raises:
        OSError: If there is no such file.
    """
    state = os.stat(path)
    return json.dumps([os.path.realpath(path), state.st_size, state.st_mtime_ns])


class RecordFile:
    """Records of one type, each under a key, in a folder.

    Records are appended, and read through a map of the file, so that any number fits. What a killed
    process wrote in part is cut off when the folder is opened. Used as a context, it keeps other
    processes from writing.

    Args:
        folder: The folder; it is made.
        dtype: Type of a record.
    """

    def __init__(self, folder: str | os.PathLike, dtype: np.dtype) -> None:
        self._folder = Path(folder)
        self._dtype = dtype
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self._folder / _LOCK)
        self._places: dict[str, int] = {}

    def __enter__(self) -> RecordFile:
        self._lock.acquire()
        self._places = self._read_keys()
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def append(self, keys: Sequence[str], records: np.ndarray) -> None:
        """Adds records and waits until they are on the disk.

        Args:
            keys: A key for each record, without line breaks.
            records: Values, shape (len(keys),), of the type of the file.
        """
        # A key is written after its record, so that every key has one.
        for name, content in (
            (_RECORDS, np.ascontiguousarray(records, dtype=self._dtype).tobytes()),
            (_KEYS, ''.join(f'{key}\n' for key in keys).encode()),
        ):
            with open(self._folder / name, 'ab') as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        first = len(self._places)
        self._places.update((key, first + place) for place, key in enumerate(keys))

    def places(self, keys: Iterable[str]) -> np.ndarray:
        """Returns the positions of the records of keys, shape (N,), int64; -1 for a missing one."""
        return np.array([self._places.get(key, -1) for key in keys], dtype=np.int64)

    def records(self) -> np.ndarray:
        """Returns all records, mapped from the file, shape (N,)."""
        count = len(self._places)
        if not count:
            return np.empty(0, self._dtype)
        return np.memmap(self._folder / _RECORDS, self._dtype, 'r', shape=(count,))

    def _read_keys(self) -> dict[str, int]:
        """Returns the positions of the whole records, after cutting off others."""
        records, keys = self._folder / _RECORDS, self._folder / _KEYS
        for path in (records, keys):
            path.touch()
        lines = keys.read_bytes().split(b'\n')[:-1]
        lines = lines[: records.stat().st_size // self._dtype.itemsize]
        os.truncate(keys, sum(len(line) + 1 for line in lines))
        os.truncate(records, len(lines) * self._dtype.itemsize)
        return {line.decode(): place for place, line in enumerate(lines)}
