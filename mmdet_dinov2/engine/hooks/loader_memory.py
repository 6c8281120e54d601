"""Memory of a training and of the processes that load its data."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class LoaderMemoryHook(Hook):
    """Logs the memory of the process and of its loading processes once per pass over the data.

    Freed memory is given back to the system before; see :func:`return_freed_memory`.

    Pages that several processes share, such as the annotations, count in parts: the sum is what the
    machine gives away. Without ``/proc`` (not Linux) nothing is logged.
    """

    priority = 'LOW'

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Logs after the last step of each pass."""
        if (runner.iter + 1) % max(len(runner.train_dataloader), 1):
            return
        return_freed_memory()
        main, workers = loader_memory()
        if main is None:
            return
        runner.logger.info(
            f'Memory: {main:.0f} MiB here, {sum(workers):.0f} MiB in {len(workers)} loading '
            'processes'
        )
        runner.visualizer.add_scalars(
            {'memory/main_mib': main, 'memory/workers_mib': sum(workers)}, step=runner.iter + 1
        )


def return_freed_memory() -> None:
    """Gives freed memory back to the system, where the C library is glibc.

    Batches of many sizes leave holes between what is still used, which glibc keeps: without this a
    training on a CPU grows for thousands of steps.
    """
    if sys.platform == 'linux':
        trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
        if trim is not None:
            trim(0)


def loader_memory() -> tuple[float | None, list[float]]:
    """Memory in MiB of this process, ``None`` if unknown, and of the processes it started."""
    children = [proportional_memory(child.pid) for child in multiprocessing.active_children()]
    return proportional_memory(os.getpid()), [memory for memory in children if memory is not None]


def proportional_memory(pid: int) -> float | None:
    """Resident memory of a process in MiB, with its part of shared pages; ``None`` if unknown."""
    return _smaps_rollup(pid, 'Pss:')


def private_memory(pid: int) -> float | None:
    """Resident memory in MiB that a process has for itself; ``None`` if unknown."""
    return _smaps_rollup(pid, 'Private_Dirty:')


def _smaps_rollup(pid: int, field: str) -> float | None:
    try:
        with open(f'/proc/{pid}/smaps_rollup') as file:
            for line in file:
                if line.startswith(field):
                    return int(line.split()[1]) / 1024
    except OSError:  # not Linux, or the process has ended
        pass
    return None
