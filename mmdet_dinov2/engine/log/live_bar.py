"""A live bar of the training and the evaluation, on a terminal."""

from __future__ import annotations

import sys

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from .console import ConsoleFilter, console_handlers
from .processor import used_memory

_SCORE = 'coco/bbox_mAP'


@HOOKS.register_module()
class LiveBarHook(Hook):
    """Shows epoch, step, remaining time, loss, AP and memory while a run goes on.

    ``StrictRunner`` registers it where the output is a terminal. Log lines appear above the bar;
    those about single steps go to the log file only.

    Args:
        console: Console to draw on; by default that of the process.
    """

    priority = 'VERY_LOW'

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._evaluation: TaskID | None = None
        self._streams: list = []
        self._best: float | None = None

    def before_train(self, runner: Runner) -> None:
        """Starts the bar of the training."""
        self._start(runner)
        self._task = self._progress.add_task(
            self._epoch_of(runner), total=runner.max_iters, completed=runner.iter, state=''
        )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        """Advances the bar of the training."""
        parts = [f'loss {float(outputs["loss"]):.2f}'] if outputs and 'loss' in outputs else []
        if self._best is not None:
            parts.append(f'AP {self._best:.3f}')
        parts.append(f'{used_memory()} MiB')
        self._progress.update(
            self._task,
            completed=runner.iter + 1,
            description=self._epoch_of(runner),
            state='  '.join(parts),
        )

    def after_train(self, runner: Runner) -> None:
        """Removes the bar."""
        self.stop()

    def before_val_epoch(self, runner: Runner) -> None:
        """Starts the bar of an evaluation."""
        self._start(runner)
        self._begin_evaluation(len(runner.val_dataloader))

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Advances the bar of an evaluation."""
        self._progress.update(self._evaluation, completed=batch_idx + 1)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Removes the bar of an evaluation; keeps the highest AP so far."""
        self._progress.remove_task(self._evaluation)
        score = (metrics or {}).get(_SCORE)
        if score is not None:
            self._best = score if self._best is None else max(score, self._best)

    def before_test_epoch(self, runner: Runner) -> None:
        """Starts the bar of a test."""
        self._start(runner)
        self._begin_evaluation(len(runner.test_dataloader))

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Advances the bar of a test."""
        self._progress.update(self._evaluation, completed=batch_idx + 1)

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Removes the bar."""
        self.stop()

    def after_run(self, runner: Runner) -> None:
        """Removes the bar."""
        self.stop()

    def stop(self) -> None:
        """Removes the bar, if there is one, and gives the console back to the log."""
        if self._progress is None:
            return
        self._progress.stop()
        self._progress = None
        for handler, stream in self._streams:
            handler.setStream(stream)
            _set_bar(handler, False)

    def _start(self, runner: Runner) -> None:
        if self._progress is not None:
            return
        self._progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn('{task.fields[state]}'),
            # rich's own may have been made while the output was redirected, and would not draw.
            console=self._console or Console(),
            transient=True,
        )
        handlers = console_handlers(runner.logger)
        self._streams = [(handler, handler.stream) for handler in handlers]
        self._progress.start()
        for handler in handlers:
            # While the bar is alive, standard output is a stream that writes above it.
            handler.setStream(sys.stdout)
            _set_bar(handler, True)

    def _begin_evaluation(self, total: int) -> None:
        self._evaluation = self._progress.add_task('evaluation', total=total, state='')

    @staticmethod
    def _epoch_of(runner: Runner) -> str:
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            return 'step'
        return f'epoch {min(runner.epoch + 1, runner.max_epochs)}/{runner.max_epochs}'


def _set_bar(handler, alive: bool) -> None:
    for part in handler.filters:
        if isinstance(part, ConsoleFilter):
            part.bar = alive
