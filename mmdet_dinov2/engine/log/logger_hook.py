"""mmengine's log of a run, with a few lines about an evaluation."""

from __future__ import annotations

import time
from collections.abc import Sized

from mmengine.hooks import LoggerHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

# A long evaluation is reported after so many parts of its batches, at most once in so many seconds.
_PARTS = 10
_SECONDS = 60.0


@HOOKS.register_module()
class ReadableLoggerHook(LoggerHook):
    """Logs a training every few steps, and an evaluation with a line at its end.

    An evaluation that takes minutes has up to nine lines before that one. mmengine's hook writes a
    line every ``interval`` batches of an evaluation too.

    Args:
        *args: As for mmengine's ``LoggerHook``.
        **kwargs: As for mmengine's ``LoggerHook``.
    """

    def before_val_epoch(self, runner: Runner) -> None:
        """Starts the clock of an evaluation."""
        self._start()

    def before_test_epoch(self, runner: Runner) -> None:
        """Starts the clock of a test."""
        self._start()

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Logs the progress of a long evaluation."""
        self._progress(runner, batch_idx, runner.val_dataloader, 'val')

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Logs the progress of a long test."""
        self._progress(runner, batch_idx, runner.test_dataloader, 'test')

    def _start(self) -> None:
        self._last_line = time.monotonic()
        self._part = 0

    def _progress(self, runner: Runner, batch_idx: int, batches: Sized, mode: str) -> None:
        part = _PARTS * (batch_idx + 1) // len(batches)
        if part <= self._part or part >= _PARTS:
            return
        if time.monotonic() - self._last_line < _SECONDS:
            return
        self._last_line = time.monotonic()
        self._part = part
        _, line = runner.log_processor.get_log_after_iter(runner, batch_idx, mode)
        runner.logger.info(line)
