"""Optimizer steps without non-finite gradients, and mixed precision without loss scaling."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn
from torch.distributed.tensor import DTensor


@OPTIM_WRAPPERS.register_module()
class GuardedOptimWrapper(OptimWrapper):
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
        norm = (
            self.clip_func(parameters, **self.clip_grad_kwargs)
            if by_norm
            else nn.utils.get_total_norm([p.grad for p in parameters])
        )
        norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        self.step_left_out = not math.isfinite(norm)
        if self.step_left_out:
            return
        if by_norm:
            self.message_hub.update_scalar(f'train/{self.grad_name}', norm)
        elif self.clip_grad_kwargs:
            self.clip_func(parameters, **self.clip_grad_kwargs)
        self.optimizer.step(**kwargs)


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
