"""Ends a training that no longer improves."""

from __future__ import annotations

from mmengine.hooks import EarlyStoppingHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

_STATE = 'early_stopping'


@HOOKS.register_module()
class ResumableEarlyStoppingHook(EarlyStoppingHook):
    """mmengine's ``EarlyStoppingHook`` whose count survives a resumed run.

    Checkpoints hold the best score and the number of evaluations since. A checkpoint is written
    before the evaluation at the end of its epoch, and the training loops of this project catch up
    on that evaluation when they resume. A resumed run therefore stops where an undisturbed one
    does.

    Args:
        *args: As for mmengine's ``EarlyStoppingHook``.
        **kwargs: As for mmengine's ``EarlyStoppingHook``.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._training = False

    def before_run(self, runner: Runner) -> None:
        """Does nothing; mmengine's hook builds the training data even for a test."""

    def before_train(self, runner: Runner) -> None:
        """Takes the count from the checkpoint that the run resumes from."""
        self._training = True
        state = runner.message_hub.get_info(_STATE, None) if runner.iter else None
        if state:
            self.best_score, self.wait_count = state['best_score'], state['wait_count']

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Decides whether the training stops, and notes the count for the next checkpoint."""
        if not self._training:  # an evaluation without training
            return
        super().after_val_epoch(runner, metrics)
        state = dict(best_score=self.best_score, wait_count=self.wait_count)
        runner.message_hub.update_info(_STATE, state)
