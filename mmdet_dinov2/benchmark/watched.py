"""Runs a training command until it has done some steps, and watches the memory of its processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from .isolated import CaseError

# Seconds between two looks at the memory, and those that a command that was stopped has to end.
_INTERVAL = 0.5
_GRACE = 60.0
# Part of the machine's memory that has to stay free, or the system would end some program.
_SPARE = 0.08
# A line of the log about training steps.
FIRST_STEPS = re.compile(r'(?:Epoch|Iter)\(train\)\s+(?:\[\d+\])?\[\s*\d+/\d+\]')
_MAX_ERROR_LINES = 3


@dataclass(frozen=True)
class Watched:
    """What a command took until its first line about training steps.

    Attributes:
        seconds: Seconds from the start of the command.
        peak_mib: Largest memory of all processes until then. Memory that processes share counts
            once: it is the sum of their proportional set sizes (PSS, Linux).
        mib: Memory of all processes at that moment.
    """

    seconds: float
    peak_mib: float
    mib: float


def watch_training(arguments: Sequence[str], processes: int, time_limit: float) -> Watched:
    """Runs ``mmdet_dinov2 train`` until its log has a line about training steps, then stops it.

    It is asked to stop as a scheduler asks, so that it leaves a checkpoint.

    Args:
        arguments: Arguments of the command.
        processes: Number of training processes; each computes with one thread.
        time_limit: Seconds until then.

    Raises:
        CaseError: If the command ends before, takes longer, or needs more memory than there is.
    """
    command = [sys.executable, '-m', 'mmdet_dinov2', 'train', *arguments]
    if processes > 1:
        launcher = ['-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={processes}']
        command[1:1] = launcher
        command += ['--launcher', 'pytorch']
    begin = time.perf_counter()
    process = subprocess.Popen(
        command,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONUNBUFFERED': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    trained, lines = threading.Event(), []
    moment: list[float] = []

    def read() -> None:
        for line in process.stdout:
            lines.append(line.strip())
            if not trained.is_set() and FIRST_STEPS.search(line):
                moment.append(time.perf_counter() - begin)
                trained.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    peak = 0.0
    try:
        while not trained.wait(_INTERVAL):
            if process.poll() is not None:
                said = ' '.join(filter(None, lines[-_MAX_ERROR_LINES:]))
                raise CaseError(f'the command ended before the first steps: {said}')
            if time.perf_counter() - begin > time_limit:
                raise CaseError(f'took longer than {time_limit:.0f} s')
            peak = max(peak, tree_memory(process.pid))
            memory = psutil.virtual_memory()
            if memory.available < _SPARE * memory.total:
                raise CaseError(f'needs more memory than this machine has, {peak:.0f} MiB so far')
        last = tree_memory(process.pid)
        process.send_signal(signal.SIGTERM)
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        pass  # ended below
    finally:
        _kill_tree(process.pid)
        process.wait()
    return Watched(moment[0], max(peak, last), last)


def _kill_tree(pid: int) -> None:
    """Ends a process and all below it; those of a launcher are in groups of their own."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def tree_memory(pid: int) -> float:
    """Returns the MiB of a process and all below it, shared memory counted once (PSS)."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    return sum(_proportional_size(process.pid) for process in family) / 2**20


def _proportional_size(pid: int) -> int:
    try:
        with open(f'/proc/{pid}/smaps_rollup') as file:
            for line in file:
                if line.startswith('Pss:'):
                    return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass  # it has just ended
    return 0
