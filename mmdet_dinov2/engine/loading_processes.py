"""Processes that load data: they outlive signals that are meant for the run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from functools import partial

from torch.utils.data import DataLoader


def outlive_signals(loader: DataLoader) -> DataLoader:
    """Lets the processes of a dataloader be ended by the process that started them alone.

    torchrun, ``timeout`` and schedulers send a signal to all processes of a run. A loading process
    that ends by it takes the run with it in the middle of a step, before its state is saved.

    Args:
        loader: A dataloader; its ``worker_init_fn`` still runs.

    Returns:
        The same dataloader. Where the system does not tell who sent a signal (macOS), it stays as
        it is.
    """
    if not hasattr(signal, 'sigwaitinfo'):
        return loader
    loader.worker_init_fn = partial(_start, init=loader.worker_init_fn)
    return loader


def _start(worker_id: int, init: Callable[[int], None] | None) -> None:
    for name in ('SIGINT', 'SIGUSR1'):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    # Blocked, SIGTERM waits for the thread, which sees who sent it: an ignored one would also keep
    # the process alive where the run ends by an error.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    # Not the parent in the sense of the system, which may be a server that forks.
    parent = multiprocessing.parent_process().pid
    threading.Thread(target=_end_for, args=(parent,), daemon=True).start()
    if init is not None:
        init(worker_id)


def _end_for(parent: int) -> None:
    """Waits until the process that started this one wants it to end."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
