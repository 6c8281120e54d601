"""Keeps processes that load data alive when the run gets a signal."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from functools import partial

from torch.utils.data import DataLoader


def outlive_signals(loader: DataLoader) -> DataLoader:
    """Makes the processes of a dataloader end only when the process that started them asks.

    torchrun, ``timeout`` and schedulers send a signal to all processes of a run. If a loading
    process ended, the run would fail in the middle of a step, before its state is saved.

    Args:
        loader: A dataloader; its ``worker_init_fn`` still runs.

    Returns:
        The same dataloader. It is not changed where the system does not report who sent a signal
        (macOS).
    """
    if not hasattr(signal, 'sigwaitinfo'):
        return loader
    loader.worker_init_fn = partial(_start, init=loader.worker_init_fn)
    return loader


def _start(worker_id: int, init: Callable[[int], None] | None) -> None:
    for name in ('SIGINT', 'SIGUSR1'):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    # A blocked SIGTERM waits for the thread, which sees who sent it. If SIGTERM were ignored, the
    # process would be left behind when the run ends with an error.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    # Not os.getppid(): with a fork server, that is the server.
    parent = multiprocessing.parent_process().pid
    threading.Thread(target=_end_for, args=(parent,), daemon=True).start()
    if init is not None:
        init(worker_id)


def _end_for(parent: int) -> None:
    """Ends this process when the process ``parent`` sends SIGTERM."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
