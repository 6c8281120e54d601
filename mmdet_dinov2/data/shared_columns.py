"""Columns that the processes of a machine share.

The first process that needs an annotation file reads it and writes the columns to a file without a
name in the folder for temporary files; the other processes of the machine wait for it, and all of
them map the same memory. So do processes that load data, however they are started. The file is gone
with the last process that has it open, however that one ends. Nobody sees it before it is complete.

Processes find each other through a small file with a name: who reads keeps it locked, and writes
into it where the columns are. The system unlocks it when its process dies.

Where columns cannot be shared (no room, a system without ``/proc``), every process keeps its own.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import json
import logging
import mmap
import multiprocessing.context
import os
import stat
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from mmengine.logging import print_log

from ..errors import InputError
from ..version import __version__
from .annotation_columns import AnnotationColumns, IdColumn, TextColumn

# Variables of launchers that number the processes of a machine.
_LOCAL_RANKS = ('LOCAL_RANK', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK')
# Bytes that the beginnings of arrays are a multiple of.
_ALIGNMENT = 64
# Variables of launchers that are the same in all processes of a run, and in no other run.
_RUN_VARIABLES = (
    'MASTER_ADDR',
    'MASTER_PORT',
    'TORCHELASTIC_RUN_ID',
    'TORCHELASTIC_RESTART_COUNT',
    'SLURM_JOB_ID',
    'SLURM_STEP_ID',
    'SLURM_RESTART_COUNT',
    'PMIX_NAMESPACE',
)


@dataclass(frozen=True)
class Place:
    """Where a process has columns open.

    Attributes:
        pid: The process.
        fd: Its file descriptor.
        device: Device of the file.
        inode: Its number on the device.
        size: Its size in bytes.
        header: Where the description of the arrays begins.
    """

    pid: int
    fd: int
    device: int
    inode: int
    size: int
    header: int


@dataclass(frozen=True, eq=False)
class SharedColumns(AnnotationColumns):
    """Columns in memory that other processes can map.

    A process that is being started to load data gets the place, not the columns.

    Attributes:
        file: The file that is mapped, open.
        header: Where the description of the arrays begins in it.
    """

    file: BinaryIO = field(kw_only=True)
    header: int = field(kw_only=True)

    @property
    def place(self) -> Place:
        """Where this process has the columns open."""
        state = os.fstat(self.file.fileno())
        return Place(
            os.getpid(), self.file.fileno(), state.st_dev, state.st_ino, state.st_size, self.header
        )

    def __reduce__(self) -> tuple:
        if multiprocessing.context.get_spawning_popen() is not None:
            return map_columns, (self.place,)
        names = [f.name for f in fields(AnnotationColumns)]
        return AnnotationColumns, tuple(getattr(self, name) for name in names)


def is_first_of_machine() -> bool:
    """Returns whether this is the only process of a run on its machine, or the first of several."""
    ranks = (os.environ[name] for name in _LOCAL_RANKS if name in os.environ)
    return int(next(ranks, 0)) == 0


def read_once(
    path: str, key: tuple[Any, ...], read: Callable[[], AnnotationColumns]
) -> AnnotationColumns:
    """Returns columns that one process of the machine reads for all that ask for them.

    Args:
        path: The annotation file, for messages.
        key: What the columns depend on.
        read: Reads the file.

    Raises:
        InputError: If the process of this run that was reading the file has died.
    """
    try:
        meeting = _Meeting(key)
    except OSError as error:
        _say_why(path, error)
        return read()
    with meeting:
        found = meeting.read()
        if found.get('state') == 'shared':
            with suppress(OSError):  # the process is gone
                return map_columns(Place(**found['place']))
        if meeting.waited and found.get('state') == 'reading' and found['run'] == _run() != '':
            raise InputError(
                f"process {found['pid']}, which was reading '{path}' for all processes of this "
                'machine, ended before it was done; its own messages, or those of the system '
                'about memory, say why: correct that and start again'
            )
        if not (meeting.waited and found.get('state') == 'unshared'):
            meeting.write('reading')
            try:
                columns = read()
            except BaseException:
                meeting.write('failed')
                raise
            try:
                shared = share_columns(columns)
            except OSError as error:
                meeting.write('unshared')
                _say_why(path, error)
                return columns
            meeting.write('shared', shared.place)
            return shared
    return read()


def share_columns(columns: AnnotationColumns) -> SharedColumns:
    """Writes columns to a file without a name and maps it.

    Raises:
        OSError: If the file cannot be written, or other processes could not open it.
    """
    file = tempfile.TemporaryFile()
    try:
        described: dict[str, Any] = {}
        for name in (f.name for f in fields(AnnotationColumns)):
            value = getattr(columns, name)
            if isinstance(value, (np.ndarray, TextColumn, IdColumn)):
                described[name] = dict(arrays=[_write(file, part) for part in _parts(value)])
            else:
                described[name] = dict(value=value)
        header = file.tell()
        file.write(json.dumps(described).encode())
        file.flush()
        return _map(file, os.fstat(file.fileno()).st_size, header)
    except OSError:
        file.close()
        raise


def map_columns(place: Place) -> SharedColumns:
    """Maps the columns that a process has open.

    Raises:
        OSError: If the process is gone, or has something else open there.
    """
    path = f'/proc/{place.pid}/fd/{place.fd}'
    state = os.stat(path)
    if not stat.S_ISREG(state.st_mode) or (state.st_dev, state.st_ino, state.st_size) != (
        place.device,
        place.inode,
        place.size,
    ):
        raise FileNotFoundError(f'process {place.pid} no longer shares its annotations')
    return _map(open(path, 'rb'), place.size, place.header)


def _map(file: BinaryIO, size: int, header: int) -> SharedColumns:
    memory = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
    values: dict[str, Any] = {}
    for name, part in json.loads(memory[header:]).items():
        if 'value' in part:
            values[name] = part['value']
            continue
        arrays = [np.ndarray(shape, kind, memory, start) for start, kind, shape in part['arrays']]
        if len(arrays) == 2:
            values[name] = TextColumn(*arrays)
        else:
            (values[name],) = arrays
        if name in _ID_COLUMNS:
            values[name] = IdColumn(values[name])
    values['derived'] = Counter(values['derived'])
    return SharedColumns(**values, file=file, header=header)


_ID_COLUMNS = ('image_ids', 'ids')


def _parts(value: np.ndarray | TextColumn | IdColumn) -> list[np.ndarray]:
    if isinstance(value, IdColumn):
        value = value.values
    return [value.content, value.ends] if isinstance(value, TextColumn) else [value]


def _write(file: BinaryIO, array: np.ndarray) -> tuple[int, str, tuple[int, ...]]:
    """Appends an array; returns where it is, its type and its shape."""
    start = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
    file.seek(start)
    if array.size:
        file.write(memoryview(np.ascontiguousarray(array)).cast('B'))
    return start, array.dtype.str, array.shape


class _Meeting:
    """The locked file through which processes that need the same columns find each other.

    Attributes:
        waited: Whether another process had it locked.

    Raises:
        OSError: If there is no place for it.
    """

    def __init__(self, key: tuple[Any, ...]) -> None:
        folder = _private_folder()
        _remove_stale(folder)
        digest = hashlib.sha1(repr((__version__, _machine(), key)).encode()).hexdigest()
        self._path = folder / digest
        self.waited = False
        while True:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if not _lock(self._fd, wait=False):
                    self.waited = True
                    _lock(self._fd)
            except OSError:
                os.close(self._fd)
                raise
            if _is_open(self._path, self._fd):
                break
            os.close(self._fd)  # removed by its last owner

    def __enter__(self) -> _Meeting:
        return self

    def __exit__(self, *error: Any) -> None:
        os.close(self._fd)  # and unlocks

    def read(self) -> dict[str, Any]:
        """Returns what was written last; empty if that is nothing, or not complete."""
        return _load(os.pread(self._fd, _MAX_MEETING, 0))

    def write(self, state: str, place: Place | None = None) -> None:
        """Writes that this process is reading, has shared, or could not share the columns."""
        found = dict(state=state, pid=os.getpid(), run=_run(), place=place and asdict(place))
        # Without it, nobody finds these columns, and others read the file themselves.
        with suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, json.dumps(found).encode(), 0)
        if state == 'reading':
            atexit.register(_remove_own, self._path, os.getpid())


_MAX_MEETING = 4096


def _remove_own(path: Path, pid: int) -> None:
    if os.getpid() == pid:  # and not in a process that was forked later
        _remove(path, lambda found: found.get('pid') == pid)


def _remove_stale(folder: Path) -> None:
    """Removes meetings whose process was killed."""
    for path in folder.iterdir():
        _remove(path, lambda found: not Path(f'/proc/{found.get("pid", 0)}').exists())


def _remove(path: Path, may_be: Callable[[dict[str, Any]], bool]) -> None:
    """Removes the file of a meeting that nobody has locked, if its content says that it may be."""
    with suppress(OSError):
        fd = os.open(path, os.O_RDWR)
        try:
            if _lock(fd, wait=False) and may_be(_load(os.pread(fd, _MAX_MEETING, 0))):
                path.unlink()
        finally:
            os.close(fd)


def _load(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _lock(fd: int, wait: bool = True) -> bool:
    """Locks a file for this process alone; returns whether it could be locked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _is_open(path: Path, fd: int) -> bool:
    """Returns whether a file descriptor is that of the file that has the path."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _private_folder() -> Path:
    """Returns a folder for small files, which no other user can write to.

    Raises:
        OSError: If there is none.
    """
    if not os.path.isdir('/proc/self/fd'):
        raise OSError('this system has no /proc/self/fd')
    folder = Path(tempfile.gettempdir()) / f'mmdet_dinov2-{os.getuid()}'
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o022:
        raise PermissionError(f'other users can write to {folder}')
    return folder


def _machine() -> tuple[str, int]:
    """Returns what tells machines and containers apart that have a folder in common."""
    boot = Path('/proc/sys/kernel/random/boot_id').read_text()
    return boot, os.stat('/proc/self/ns/pid').st_ino


def _run() -> str:
    """Returns what tells this run from others; empty if no launcher started it."""
    return '/'.join(os.environ.get(name, '') for name in _RUN_VARIABLES).strip('/')


def _say_why(path: str, error: OSError) -> None:
    print_log(
        f"the annotations of '{path}' cannot be shared ({error}), so every process keeps its own; "
        f'make room in {tempfile.gettempdir()}, or set TMPDIR to a different folder',
        logger='current',
        level=logging.WARNING,
    )
