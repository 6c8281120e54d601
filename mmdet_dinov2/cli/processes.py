"""The processes of a distributed run: how many there are, which one prints, how they end."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable

import torch

from ..engine.hooks.preemption import STOPPED_EXIT_CODE
from ..errors import InputError

# Variables in which a launcher says how many processes there are, and which one this is.
_WORLD_SIZE_VARIABLES = dict(pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE')
_RANK_VARIABLES = ('RANK', 'OMPI_COMM_WORLD_RANK', 'SLURM_PROCID')


def launched_world_size(launcher: str) -> int:
    """Returns the number of processes that a launcher started, before they are connected.

    Raises:
        InputError: If the launcher did not start this process.
    """
    if launcher == 'none':
        return 1
    variable = _WORLD_SIZE_VARIABLES[launcher]
    if variable not in os.environ:
        raise InputError(
            f'--launcher {launcher} expects {variable} in the environment; start the program with '
            'the scripts in tools/'
        )
    return int(os.environ[variable])


def process_rank() -> int:
    """Returns the rank of this process, before the processes are connected."""
    return int(next((os.environ[name] for name in _RANK_VARIABLES if name in os.environ), '0'))


def is_first_process() -> bool:
    """Returns whether this is the process that prints, before the processes are connected.

    Once they are connected, ``mmengine.dist.is_main_process`` says the same.
    """
    return process_rank() == 0


def work_and_exit(work: Callable[[], object], launcher: str) -> None:
    """Does the work of a run; if a launcher started this process, ends the process afterwards.

    A thread of the process group that still holds tensors while Python shuts down aborts its
    process, although all the work is done (pytorch issue 190489), and whatever refers to the group
    keeps its threads alive. So the process ends without the shutdown of the interpreter. After an
    error it ends as usual: other processes may be waiting in the group.

    Args:
        work: What all processes do together. If it exits with ``STOPPED_EXIT_CODE``, on which all
            processes agree, so does this process.
        launcher: What started the processes; with 'none' the caller goes on after the work.
    """
    code = 0
    try:
        work()
    except SystemExit as stop:
        if launcher == 'none' or stop.code != STOPPED_EXIT_CODE:
            raise
        code = STOPPED_EXIT_CODE
    if launcher != 'none':
        _exit_without_shutdown(code)


def _exit_without_shutdown(code: int) -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    # Private, Python 3.10 to 3.12: os._exit, the public way to skip the shutdown, also skips what
    # is registered with atexit, which ends loading processes and closes logs.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
