"""Steps of any number of micro-batches, without non-finite gradients, with or without autocast."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ...errors import InputError
from ...layers.out_of_memory import is_out_of_memory, release_memory


class MicroBatchSteps:
    """Lets a training loop divide each step as it likes, and say when the parameters change.

    mmengine's wrappers know one number of micro-batches for the whole run, and change the
    parameters in the backward pass of the last one. This mixin stands before one of them.

    A loop calls :meth:`begin_step`, trains on the micro-batches, and calls :meth:`finish_step`. If
    it begins again instead, the gradients are dropped, and nothing has changed.
    """

    # Names that begin with an underscore, other than this one, are those of mmengine's wrapper,
    # which has no public way to set them.
    _divided_by_loop = False
    _averages_in_backward = True

    def begin_step(self, num_micro_batches: int, averages_in_backward: bool = True) -> None:
        """Drops all gradients and begins a step.

        Args:
            num_micro_batches: Number of backward passes of the step; its gradient is their mean.
            averages_in_backward: Whether the model wrapper averages gradients over the processes
                in the last of them. Otherwise the loop does so before :meth:`finish_step`.
        """
        self.zero_grad()
        self._divided_by_loop = True
        self._averages_in_backward = averages_in_backward
        self._accumulative_counts = self._max_counts = num_micro_batches
        self._inner_count = self._remainder_counts = 0

    def finish_step(self) -> None:
        """Changes the parameters and drops the gradients."""
        self.step()
        self.zero_grad()

    def should_update(self) -> bool:
        """Returns whether a backward pass changes the parameters; see mmengine's wrapper."""
        return not self._divided_by_loop and super().should_update()

    def should_sync(self) -> bool:
        """Returns whether a backward pass averages gradients; see mmengine's wrapper."""
        return self._averages_in_backward and super().should_sync()


@OPTIM_WRAPPERS.register_module()
class GuardedAmpOptimWrapper(MicroBatchSteps, AmpOptimWrapper):
    """mmengine's ``AmpOptimWrapper``, whose steps a training loop divides."""


@OPTIM_WRAPPERS.register_module()
class GuardedOptimWrapper(MicroBatchSteps, OptimWrapper):
    """mmengine's ``OptimWrapper`` that leaves out steps with a non-finite gradient.

    A single such step would turn all weights and optimizer states into NaN. The norm of the
    gradient shows it, and clipping computes that norm anyway. After the backward pass gradients are
    the same in all processes, so all of them leave the step out without communication.

    Args:
        *args: As for mmengine's ``OptimWrapper``.
        **kwargs: As for mmengine's ``OptimWrapper``.

    Attributes:
        step_left_out: Whether the last step was left out.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.step_left_out = False

    def step(self, **kwargs) -> None:
        """Clips the gradient and updates the parameters, unless the gradient is non-finite."""
        parameters = [
            p
            for group in self.optimizer.param_groups
            for p in group['params']
            if p.grad is not None
        ]
        self.step_left_out = False
        if not parameters:
            return
        # Clipping by value does not return a norm, and hides infinite values.
        by_norm = bool(self.clip_grad_kwargs) and self.clip_func is not nn.utils.clip_grad_value_
        gradients = [p.grad for p in parameters]
        norm = (
            _in_memory(self.clip_func, gradients, parameters, **self.clip_grad_kwargs)
            if by_norm
            else _in_memory(nn.utils.get_total_norm, gradients, gradients)
        )
        norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        self.step_left_out = not math.isfinite(norm)
        if self.step_left_out:
            return
        if by_norm:
            self.message_hub.update_scalar(f'train/{self.grad_name}', norm)
        elif self.clip_grad_kwargs:
            self.clip_func(parameters, **self.clip_grad_kwargs)
        _in_memory(self.optimizer.step, _changed_by(self.optimizer, parameters), **kwargs)


@OPTIM_WRAPPERS.register_module()
class Bf16OptimWrapper(GuardedOptimWrapper):
    """Runs the forward pass under bf16 autocast, on GPUs and CPUs.

    bf16 has the range of fp32, so losses are not scaled. mmengine's ``AmpOptimWrapper`` needs an
    accelerator.

    Args:
        **kwargs: As for mmengine's ``OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enters the accumulation context of the base class, and autocast on the model's device."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield


def _changed_by(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> list[Tensor]:
    """Returns the tensors that a step of an optimizer changes."""
    states = (optimizer.state.get(parameter, {}) for parameter in parameters)
    kept = [value for state in states for value in state.values() if isinstance(value, Tensor)]
    return parameters + kept


def _in_memory(work: Callable, changed: Iterable[Tensor], *args, **kwargs) -> Any:
    """Calls a function, and once more with all unused memory free if memory is exhausted.

    Args:
        work: The function.
        changed: The tensors that it changes.
        *args: Its arguments.
        **kwargs: Its named arguments.

    Returns:
        Its result.

    Raises:
        InputError: If memory was exhausted after some of the tensors were changed.
    """
    before = [tensor._version for tensor in changed]
    try:
        return work(*args, **kwargs)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    release_memory()
    if [tensor._version for tensor in changed] != before:
        raise InputError(
            'memory was exhausted while the optimizer changed the weights, some of which are '
            'changed; continue from the last checkpoint with --resume, with '
            'optim_wrapper.optimizer.fused=True, which needs no memory of its own, or with a '
            'smaller model'
        )
    return work(*args, **kwargs)
