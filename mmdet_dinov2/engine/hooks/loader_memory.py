"""Memory of a training and of the processes that load its data."""

from __future__ import annotations

import multiprocessing
import os

import psutil
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...data.freed_memory import return_freed_memory

_MIB = 2**20


@HOOKS.register_module()
class LoaderMemoryHook(Hook):
    """Logs the memory of the process and of its loading processes after each pass over the data.

    Returns freed memory to the system first; see :func:`return_freed_memory`.

    Each process counts its part of the pages that several share, such as the annotations, so the
    sum is the memory that the machine gives to the run. Only Linux reports these parts; nothing
    is logged on other systems.
    """

    priority = 'LOW'

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Logs the memory after the last step of a pass."""
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


def loader_memory() -> tuple[float | None, list[float]]:
    """Returns the memory of this process and of each process that it started.

    Returns:
        MiB of this process, None if unknown, and MiB of the others.
    """
    children = [proportional_memory(child.pid) for child in multiprocessing.active_children()]
    return proportional_memory(os.getpid()), [memory for memory in children if memory is not None]


def proportional_memory(pid: int) -> float | None:
    """Returns the resident memory of a process in MiB, with its part of shared pages.

    Returns:
        None if the system does not report it (only Linux does) or the process has ended.
    """
    try:
        used = psutil.Process(pid).memory_full_info()
    except psutil.Error:
        return None
    return used.pss / _MIB if hasattr(used, 'pss') else None
