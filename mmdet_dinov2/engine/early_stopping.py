"""Ending a training that no longer improves."""

from __future__ import annotations

from mmengine.hooks import EarlyStoppingHook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner

_STATE = 'early_stopping'


@HOOKS.register_module()
class ResumableEarlyStoppingHook(EarlyStoppingHook):
    """mmengine's ``EarlyStoppingHook`` whose count survives a resumed run.

    Best score and number of evaluations without a better one are saved with the checkpoints. A
    checkpoint is written before the evaluation at the end of its epoch; a run that goes on from it
    makes up for this evaluation first, so that it stops when the undisturbed run does, and keeps
    the same best checkpoint.

    Args:
        *args: As for mmengine's ``EarlyStoppingHook``.
        **kwargs: As for mmengine's ``EarlyStoppingHook``.
    """

    def before_run(self, runner: Runner) -> None:
        """Does nothing; mmengine's builds the training data even to test."""

    def before_train(self, runner: Runner) -> None:
        """Takes the state of a checkpoint over, and evaluates what it was saved before."""
        loop = runner.train_loop
        state = runner.message_hub.runtime_info.get(_STATE) if loop.iter else None
        if state:
            self.best_score, self.wait_count = state['best_score'], state['wait_count']
        if loop.iter and _is_due(runner) and not (state and state['iter'] == loop.iter):
            runner.logger.info('Evaluating the checkpoint first, which was saved before it was')
            runner.val_loop.run()

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Decides whether to stop, and notes the state for the next checkpoint."""
        if not isinstance(runner._train_loop, BaseLoop):  # an evaluation without training
            return
        super().after_val_epoch(runner, metrics)
        state = dict(
            best_score=self.best_score, wait_count=self.wait_count, iter=runner.train_loop.iter
        )
        runner.message_hub.update_info(_STATE, state)


def _is_due(runner: Runner) -> bool:
    """Whether a training evaluates at the point where it is."""
    loop = runner.train_loop
    if runner.val_loop is None:
        return False
    position, last = loop.iter, loop.max_iters
    if isinstance(loop, EpochBasedTrainLoop):
        position, last = loop.epoch, loop.max_epochs
        if loop.iter != position * len(loop.dataloader):  # within an epoch
            return False
    loop._decide_current_val_interval()
    return position >= loop.val_begin and (position % loop.val_interval == 0 or position == last)
