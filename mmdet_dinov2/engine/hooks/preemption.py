"""Saves a run exactly when it is asked to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

import torch
from mmengine.dist import all_reduce, barrier, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...files import write_text
from ...runs.checkpoints import LAST_CHECKPOINT

# "Temporary failure, try again" of sysexits.h.
STOPPED_EXIT_CODE = 75
CHECKPOINT_NAME = 'stopped.pth'


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Saves an exact checkpoint and ends the run when a process is asked to stop.

    If any process gets a signal, all of them stop at the end of the step. This needs no
    communication of its own, as the request travels with the losses. The checkpoint holds the state
    after this step, and ``last_checkpoint`` names it. An evaluation stops after the current batch;
    the run that resumes repeats it. A Slurm batch job requeues itself, unless it was interrupted
    (SIGINT, Ctrl-C). A second SIGINT ends the run at once, without a checkpoint.

    Args:
        signals: Names of the signals. Slurm sends SIGTERM, and others on request
            (``sbatch --signal=USR1@120``).

    Raises:
        ValueError: If a signal does not exist.
    """

    # After the schedulers have stepped, as for checkpoints.
    priority = 'VERY_LOW'

    def __init__(self, signals: Sequence[str] = ('SIGTERM', 'SIGUSR1', 'SIGINT')) -> None:
        unknown = [name for name in signals if not hasattr(signal, name)]
        if unknown:
            raise ValueError(
                f'signals of PreemptionHook must be names of signals, but {unknown} do not exist'
            )
        self.signals = tuple(signals)
        self._previous: dict = {}
        self._interrupted = False
        self._common_batches = 0

    def before_train(self, runner: Runner) -> None:
        """Starts to listen to the signals."""
        if threading.current_thread() is not threading.main_thread():
            # Python calls handlers in the main thread only, which runs a program of its own.
            runner.logger.info('The training is not in the main thread: no signal stops it')
            return
        process = os.getpid()

        def request(number: int, frame) -> None:
            if os.getpid() != process:
                return  # loading processes inherit the handler
            if number == signal.SIGINT:
                if self._interrupted:
                    raise KeyboardInterrupt
                self._interrupted = True
                if is_main_process():
                    print('\nStopping after this step; Ctrl-C again stops at once', file=sys.stderr)
            runner.train_loop.step.stop_requested = True

        for name in self.signals:
            self._previous[name] = signal.signal(getattr(signal, name), request)

    def stop_listening(self) -> None:
        """Restores the handlers of the signals; the runner calls it, however a training ends."""
        for name, handler in self._previous.items():
            signal.signal(getattr(signal, name), handler)
        self._previous = {}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Ends the run if the processes have agreed on it.

        Raises:
            SystemExit: With code 75, after the checkpoint is saved.
        """
        if runner.train_loop.step.stop_agreed:
            self._stop(runner, runner.iter + 1)

    def before_val_epoch(self, runner: Runner) -> None:
        """Finds the number of batches that all processes have."""
        if self._previous:
            count = torch.tensor(len(runner.val_dataloader))
            all_reduce(count, 'min')
            self._common_batches = int(count)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Stops an evaluation within a training if a process was asked to stop.

        Raises:
            SystemExit: With code 75, after the checkpoint is saved.
        """
        if not self._previous or batch_idx >= self._common_batches:
            return
        requested = torch.tensor(int(runner.train_loop.step.stop_requested))
        all_reduce(requested, 'max')
        if not requested:
            return
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                hook.after_val_epoch(runner)  # puts the trained weights back
        self._stop(runner, runner.iter)

    def _stop(self, runner: Runner, steps: int) -> None:
        """Saves the state after a number of steps and ends the run."""
        path = save_stopped_state(runner, steps)
        if is_main_process():
            requeued = not self._interrupted and _requeue()
            remedy = 'the job was requeued' if requeued else 'continue with --resume'
            runner.logger.warning(
                f'Asked to stop: saved the state after step {steps} to {path}; {remedy}'
            )
        # No process may leave earlier: srun would end the others.
        barrier()
        raise SystemExit(STOPPED_EXIT_CODE)


def save_stopped_state(runner: Runner, steps: int) -> str:
    """Saves the state of a run that ends within an epoch; every process has to call it.

    Args:
        runner: The runner.
        steps: Number of steps that the weights have seen.

    Returns:
        Path of the checkpoint, which ``last_checkpoint`` names.
    """
    runner.save_checkpoint(
        runner.work_dir,
        CHECKPOINT_NAME,
        meta=dict(epoch=runner.epoch, iter=steps),
        by_epoch=False,
    )
    path = os.path.join(runner.work_dir, CHECKPOINT_NAME)
    if is_main_process():
        write_text(os.path.join(runner.work_dir, LAST_CHECKPOINT), path)
    return path


def _requeue() -> bool:
    """Requeues the Slurm batch job that this process belongs to, unless it was cancelled."""
    job = os.environ.get('SLURM_JOB_ID')
    if job is None:
        return False
    try:
        shown = subprocess.run(
            ['scontrol', 'show', 'job', '--oneliner', job], capture_output=True, text=True
        ).stdout
    except OSError:  # a container without Slurm's commands
        return False
    # Without a batch script, there is nothing to run again.
    if 'BatchFlag=0' in shown or 'JobState=CANCELLED' in shown:
        return False
    return subprocess.run(['scontrol', 'requeue', job], capture_output=True).returncode == 0
