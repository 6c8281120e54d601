"""What changes during a self-distillation: teacher, temperature, and what is not trained yet."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn
from torch.optim import Optimizer

from ...checkpoint import inner_model
from ...errors import InputError
from ...models.self_distillation import SelfDistillation

_LEARN_FIRST = ('student.dino_head.', 'student.ibot_head.', 'mask_token')


@HOOKS.register_module()
class SelfDistillationHook(Hook):
    """Moves the teacher of a :class:`.SelfDistillation` after each step, and sets its schedules.

    Lengths are shares of the training, 0..1, so that they keep their meaning when it is longer or
    shorter. The log shows the measures of the model. A step that was left out for its gradient
    moves nothing.

    Args:
        momentum: Share of the teacher that a step keeps, at the start and at the end; a cosine
            lies between them.
        teacher_temperature: Temperature of the teacher at the start and after its warm-up, which
            is linear.
        temperature_warmup: Length of that warm-up.
        last_layer_freeze: Until when the prototypes stay as they are.
        heads_first: Until when only the heads and the mask token learn. Released weights have no
            heads, and the gradients of untrained ones would spoil the backbone. The backbone is
            computed as always.

    Raises:
        InputError: If an argument is out of range.
    """

    def __init__(
        self,
        momentum: Sequence[float] = (0.992, 1.0),
        teacher_temperature: Sequence[float] = (0.04, 0.07),
        temperature_warmup: float = 0.3,
        last_layer_freeze: float = 0.01,
        heads_first: float = 0.0,
    ) -> None:
        for name, pair in (('momentum', momentum), ('teacher_temperature', teacher_temperature)):
            if len(pair) != 2:
                raise InputError(
                    f'{name} of SelfDistillationHook must be two values, at the start and at the '
                    f'end, but is {tuple(pair)}'
                )
        shares = dict(
            temperature_warmup=temperature_warmup,
            last_layer_freeze=last_layer_freeze,
            heads_first=heads_first,
        )
        shares.update({f'momentum[{i}]': value for i, value in enumerate(momentum)})
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise InputError(f'{name} of SelfDistillationHook must lie in 0..1, but is {value}')
        for value in teacher_temperature:
            if value <= 0:
                raise InputError(
                    'temperatures of SelfDistillationHook must be above 0, but '
                    f'teacher_temperature is {tuple(teacher_temperature)}'
                )
        self.momentum = tuple(momentum)
        self.teacher_temperature = tuple(teacher_temperature)
        self.temperature_warmup = temperature_warmup
        self.last_layer_freeze = last_layer_freeze
        self.heads_first = heads_first
        self._model: SelfDistillation | None = None
        self._done = 0.0

    def before_train(self, runner: Runner) -> None:
        """Finds the model, and keeps the optimizer from what is not trained yet.

        Raises:
            InputError: If the model is a different one.
        """
        self._model = self_distillation_of(runner, type(self).__name__)
        named = dict(self._model.named_parameters())

        def leave_out(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
            # Parameters without a gradient are not changed, nor are their moments. Their gradients
            # are computed all the same: processes that average them expect those of all.
            for name, parameter in named.items():
                if self._frozen(name):
                    parameter.grad = None

        runner.optim_wrapper.optimizer.register_step_pre_hook(leave_out)

    def _frozen(self, name: str) -> bool:
        if self._done < self.last_layer_freeze and name.endswith('last_layer.weight'):
            return True
        return self._done < self.heads_first and not name.startswith(_LEARN_FIRST)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Sets the temperature of the step."""
        self._done = runner.iter / runner.max_iters
        start, end = self.teacher_temperature
        share = min(1.0, self._done / self.temperature_warmup) if self.temperature_warmup else 1.0
        self._model.teacher_temperature = start + (end - start) * share

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Moves the teacher, and logs the measures of the step."""
        if getattr(runner.optim_wrapper, 'step_left_out', False):
            return
        start, end = self.momentum
        self._model.finish_step(end - (end - start) * (1 + math.cos(math.pi * self._done)) / 2)
        for name, value in self._model.measures.items():
            runner.message_hub.update_scalar(f'train/{name}', value)


def self_distillation_of(runner: Runner, hook: str) -> SelfDistillation:
    """Returns the model of a runner.

    Args:
        runner: The runner.
        hook: Name of the hook that needs it, for the message.

    Raises:
        InputError: If it is not a self-distillation.
    """
    model: nn.Module = inner_model(runner.model)
    if not isinstance(model, SelfDistillation):
        raise InputError(
            f'{hook} needs a model of type SelfDistillation, but the model is a '
            f'{type(model).__name__}; remove the hook from custom_hooks'
        )
    return model
