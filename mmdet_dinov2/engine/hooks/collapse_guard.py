"""Stops a self-distillation whose targets no longer say anything."""

from __future__ import annotations

import os

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...errors import InputError
from .self_distillation import self_distillation_of

LAST_GOOD = 'last_good.pth'
_STATE = 'collapse_guard'
_REMEDIES = {
    'uniform': (
        'lower teacher_temperature of SelfDistillationHook (such as 0.03 for small '
        'batches), take a larger batch, or more momentum'
    ),
    'same': (
        'raise teacher_temperature of SelfDistillationHook, lower the learning rate, or set a '
        'larger koleo_weight'
    ),
}


@HOOKS.register_module()
class CollapseGuardHook(Hook):
    """Stops a self-distillation that has collapsed, and keeps the last good weights.

    Losses do not tell: they are as low as can be when everything has the same target. The guard
    looks at the running means of the measures of :class:`.SelfDistillation`. If one of them is out
    of its limits for a number of steps in a row, all processes stop. ``last_good.pth`` in the work
    folder is a whole checkpoint, written every ``interval`` steps while all measures are within
    their limits.

    Args:
        patience: Number of steps in a row that stop the run, at least 1.
        horizon: Number of steps that the running means cover, at least 1.
        interval: Number of steps between two writings of ``last_good.pth``, at least 1.
        max_entropy: Largest entropy of the targets of CLS tokens and of patches, relative to
            uniform ones: above it, all prototypes fit everything. With many prototypes targets
            start near 0.9; with some hundred, a run that stays there does not learn.
        min_entropy: Least entropy of them: below it, one prototype is left.
        max_cross_entropy: Largest cross-entropy of the patches, relative to guessing uniformly.
        min_spread: Least spread of the CLS tokens: below it, all images look the same.

    Raises:
        InputError: If a number of steps is less than 1.
    """

    # After the schedulers (70), as it writes checkpoints, and before other checkpoints (90), which
    # hold its state.
    priority = 80

    def __init__(
        self,
        patience: int = 50,
        horizon: int = 20,
        interval: int = 200,
        max_entropy: float = 0.97,
        min_entropy: float = 0.02,
        max_cross_entropy: float = 1.2,
        min_spread: float = 0.01,
    ) -> None:
        for name, value in dict(patience=patience, horizon=horizon, interval=interval).items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(
                    f'{name} of CollapseGuardHook must be a whole number of at least 1, but is '
                    f'{value!r}'
                )
        self.patience = patience
        self.horizon = horizon
        self.interval = interval
        self.limits = dict(
            target_entropy=(min_entropy, max_entropy),
            patch_entropy=(min_entropy, max_entropy),
            patch_cross_entropy=(0.0, max_cross_entropy),
            cls_spread=(min_spread, 2.0),
        )
        self._means: dict[str, float] = {}
        self._bad_steps = 0
        self._last_good = 0

    def before_train(self, runner: Runner) -> None:
        """Takes the running means from the checkpoint that the run resumes from."""
        self._model = self_distillation_of(runner, type(self).__name__)
        state = runner.message_hub.get_info(_STATE, None) if runner.iter else None
        if state:
            self._means = dict(state['means'])
            self._bad_steps, self._last_good = state['bad_steps'], state['last_good']

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Looks at the measures of a step.

        Raises:
            InputError: If one was out of its limits for ``patience`` steps in a row.
        """
        step = runner.iter + 1
        for name, value in self._model.measures.items():
            # Until the horizon is reached, the mean of all steps.
            share = 1 / min(step, self.horizon)
            self._means[name] = (1 - share) * self._means.get(name, value) + share * value
        self._bad_steps = self._bad_steps + 1 if self._out_of_limits() else 0
        good = not self._bad_steps and step % self.interval == 0
        if good:
            self._last_good = step
        state = dict(means=dict(self._means), bad_steps=self._bad_steps, last_good=self._last_good)
        runner.message_hub.update_info(_STATE, state)
        if good:
            meta = dict(epoch=runner.epoch, iter=step)
            runner.save_checkpoint(runner.work_dir, LAST_GOOD, meta=meta, by_epoch=False)
        if self._bad_steps >= self.patience:
            raise InputError(self._explain(runner))

    def _out_of_limits(self) -> list[str]:
        return [
            name
            for name, value in self._means.items()
            if not self.limits[name][0] <= value <= self.limits[name][1]
        ]

    def _explain(self, runner: Runner) -> str:
        found = []
        remedies = {}
        for name in self._out_of_limits():
            low, high = self.limits[name]
            value = self._means[name]
            limit = f'at most {high}' if value > high else f'at least {low}'
            found.append(f'{name} is {value:.3f} ({limit} is sound)')
            remedies[_REMEDIES['uniform' if value > high else 'same']] = None
        path = os.path.join(runner.work_dir, LAST_GOOD)
        kept = (
            f'the weights after step {self._last_good}, which were sound, are in {path}'
            if self._last_good
            else 'no weights were sound long enough to be kept'
        )
        return (
            f'the self-distillation has collapsed: for {self._bad_steps} steps, '
            f'{" and ".join(found)}; it is stopped after step {runner.iter + 1}, {kept}; '
            f'{", or ".join(remedies)}, and start again, with load_from to go on from sound weights'
        )
