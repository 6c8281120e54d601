"""Stops runs whose losses have become non-finite."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from mmengine.dist import all_gather_object, get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...errors import InputError
from ...models.matching import BatchedHungarianAssigner
from ...runs.checkpoints import find_last_checkpoint
from ..resume.replay import keep_batch

_MOST_NAMES = 8


@dataclass(frozen=True)
class BadStep:
    """A step whose loss or gradient was not finite.

    Attributes:
        number: Number of the step, from 1.
        images: Names of the images of this process; empty if its own loss was finite.
    """

    number: int
    images: tuple[str, ...]


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Stops a run whose losses stay non-finite, and says which images it saw.

    Steps with non-finite losses do not change the weights (``GuardedOptimWrapper``), so single ones
    do no harm. After ``max_steps`` of them in a row, all processes stop. They agree without asking
    each other, as the logged losses are means over all processes. Each process whose own loss was
    not finite keeps the last batch and the weights for ``mmdet_dinov2 replay``. The loss scaling
    of fp16 also leaves out steps while it looks for its scale. Their loss is finite, and they do
    not count.

    The log counts non-finite matching costs, which the assigner replaces, as ``nonfinite_costs``
    from the first one on.

    Args:
        max_steps: Number of steps in a row that stop the run, at least 1.

    Raises:
        InputError: If ``max_steps`` is less than 1.
    """

    # Before checkpoints are written.
    priority = 'ABOVE_NORMAL'

    def __init__(self, max_steps: int = 5) -> None:
        if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
            raise InputError(
                'max_steps of NonFiniteHook must be a whole number of at least 1, but is '
                f'{max_steps!r}'
            )
        self.max_steps = max_steps
        self._assigners: list[BatchedHungarianAssigner] = []
        self._costs_seen = 0
        self._costs_of_run = 0
        self._steps: list[BadStep] = []

    def before_train(self, runner: Runner) -> None:
        """Finds the assigners, which count matching costs."""
        assigners = (getattr(module, 'assigner', None) for module in runner.model.modules())
        self._assigners = [a for a in assigners if isinstance(a, BatchedHungarianAssigner)]
        runner.train_loop.step.counters['nonfinite_costs'] = self._new_costs

    def _new_costs(self) -> int:
        seen, self._costs_seen = self._costs_seen, sum(a.num_nonfinite for a in self._assigners)
        return self._costs_seen - seen

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Checks the loss and the gradient of a step.

        Raises:
            InputError: After ``max_steps`` steps in a row with a non-finite loss or gradient.
        """
        self._log_costs(runner)
        finite = math.isfinite(outputs['loss'])
        if finite and not getattr(runner.optim_wrapper, 'step_left_out', False):
            self._steps.clear()
            return
        step = runner.iter + 1
        # If the loss is finite and the gradient is not, any process may have caused it.
        losses = [terms['loss'] for terms in runner.train_loop.step.losses]
        here = finite or not all(loss.isfinite() for loss in losses)
        self._steps.append(BadStep(step, image_names(data_batch) if here else ()))
        runner.logger.warning(
            f'Step {step}: the {"gradient" if finite else "loss"} is not finite; the step does '
            f'not change the weights ({len(self._steps)} in a row; {self.max_steps} stop the run)'
        )
        if len(self._steps) == self.max_steps:
            self._stop(runner, data_batch, here)

    def _log_costs(self, runner: Runner) -> None:
        costs = runner.train_loop.step.sums['nonfinite_costs']
        if costs and not self._costs_of_run:
            runner.logger.warning(
                f'Step {runner.iter + 1}: {costs} matching costs were not finite and were replaced '
                'by very large ones; nonfinite_costs counts them from now on'
            )
        self._costs_of_run += costs
        if self._costs_of_run:
            runner.message_hub.update_scalar('train/nonfinite_costs', costs)

    def _stop(self, runner: Runner, data_batch: dict, here: bool) -> None:
        name = f'nonfinite_step_{runner.iter + 1}_process_{get_rank()}.pth'
        kept = keep_batch(runner, data_batch, os.path.join(runner.work_dir, name) if here else None)
        parts = all_gather_object((self._steps, kept))
        last = find_last_checkpoint(runner.work_dir)
        saved = f'the last checkpoint ({last})' if last else 'a checkpoint (there is none yet)'
        raise InputError(
            f'the loss was not finite in {self.max_steps} steps in a row, so the run was stopped; '
            f'these steps changed neither the weights nor {saved}; '
            f'images: {describe_images([steps for steps, _ in parts])}; '
            f'the last of these batches is kept in {", ".join(k for _, k in parts if k)}, and '
            '`mmdet_dinov2 replay CONFIG FILE` shows where it becomes non-finite; check '
            'these images and boxes, lower the learning rate, or train in bf16 (--amp) or fp32 '
            'instead of fp16, then continue with --resume'
        )


def image_names(data_batch: dict) -> tuple[str, ...]:
    """Returns the files and ids of the images of a batch, as far as the pipeline packs them."""
    names = []
    for sample in data_batch['data_samples']:
        path, number = (sample.metainfo.get(key) for key in ('img_path', 'img_id'))
        known = [str(path)] if path is not None else []
        known += [f'id {number}'] if number is not None else []
        names.append(' '.join(known) or 'unknown (PackDetInputs packs neither img_path nor img_id)')
    return tuple(names)


def describe_images(processes: list[list[BadStep]]) -> str:
    """Lists the images of the same steps in all processes."""
    lines = []
    for steps in zip(*processes, strict=True):
        names = [name for step in steps for name in step.images]
        more = len(names) - _MOST_NAMES
        text = ', '.join(names[:_MOST_NAMES]) + (f' and {more} more' if more > 0 else '')
        lines.append(f'step {steps[0].number}: {text}')
    return '; '.join(lines)
