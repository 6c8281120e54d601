"""Ending a training that no longer improves."""

from __future__ import annotations

from mmengine.hooks import EarlyStoppingHook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner

_STATE = 'early_stopping'


@HOOKS.register_module()
class ResumableEarlyStoppingHook(EarlyStoppingHook):
    """mmengine's ``EarlyStoppingHook`` whose count survives a resumed run.

    Best score and number of evaluations without a better one are saved with the checkpoints. A
    checkpoint is written before the evaluation at the end of its epoch; the training loops make up
    for it first, so that a run stops when the undisturbed one does.

    Args:
        *args: As for mmengine's ``EarlyStoppingHook``.
        **kwargs: As for mmengine's ``EarlyStoppingHook``.
    """

    def before_run(self, runner: Runner) -> None:
        """Does nothing; mmengine's builds the training data even to test."""

    def before_train(self, runner: Runner) -> None:
        """Takes the state of a checkpoint over."""
        state = runner.message_hub.get_info(_STATE, None) if runner.iter else None
        if state:
            self.best_score, self.wait_count = state['best_score'], state['wait_count']

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Decides whether to stop, and notes the state for the next checkpoint."""
        if not isinstance(runner._train_loop, BaseLoop):  # an evaluation without training
            return
        super().after_val_epoch(runner, metrics)
        state = dict(best_score=self.best_score, wait_count=self.wait_count)
        runner.message_hub.update_info(_STATE, state)
