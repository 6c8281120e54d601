"""Gathers and divides the states of models and optimizers that are sharded over processes.

Checkpoints always hold whole tensors, so one that was saved by any number of processes, sharded or
not, loads on any other number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(model: nn.Module) -> bool:
    """Returns whether the parameters of a model are divided over processes."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def gather(value: Any, device: str | torch.device | None = None, keep: bool = True) -> Any:
    """Gathers the divided tensors in nested dicts, lists and tuples.

    All processes must call it, because each of them sends its parts.

    Args:
        value: A tensor, or nested dicts, lists and tuples; anything else is returned unchanged.
        device: Where tensors are moved to; None leaves them where they are.
        keep: Whether this process wants the tensors. The others get None in the place of each, and
            hold one whole tensor at a time.

    Returns:
        The same structure with whole tensors.
    """
    if isinstance(value, Mapping):
        return type(value)((key, gather(item, device, keep)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(gather(item, device, keep) for item in value)
    if isinstance(value, Tensor):
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        if not keep:
            return None
        return whole if device is None else whole.to(device)
    return value


def divide_like(value: Tensor, target: Tensor) -> Tensor:
    """Divides a whole tensor like a target; returns it unchanged if the target is whole."""
    if not isinstance(target, DTensor) or isinstance(value, DTensor):
        return value
    value = value.to(target.device)
    return distribute_tensor(value, target.device_mesh, target.placements)


def load_model_state(model: nn.Module, state_dict: Mapping[str, Tensor], strict: bool) -> None:
    """Loads whole tensors into a model whose parameters may be divided.

    Args:
        model: The model.
        state_dict: Whole tensors by name.
        strict: As for ``load_state_dict``.
    """
    targets = model.state_dict()
    model.load_state_dict(
        {
            name: divide_like(tensor, targets[name]) if name in targets else tensor
            for name, tensor in state_dict.items()
        },
        strict=strict,
    )


def divide_optimizer_state(state: dict, optimizer: torch.optim.Optimizer) -> dict:
    """Divides the tensors of a whole optimizer state like the parameters of an optimizer.

    Args:
        state: ``state_dict`` of an optimizer for the same parameters.
        optimizer: The optimizer.

    Returns:
        A state for ``optimizer.load_state_dict``.
    """
    parameters = [p for group in optimizer.param_groups for p in group['params']]
    indices = [i for group in state['param_groups'] for i in group['params']]
    divided = {}
    for index, parameter in zip(indices, parameters, strict=True):
        if index in state['state']:
            divided[index] = {
                name: divide_like(value, parameter)
                if isinstance(value, Tensor) and value.shape == parameter.shape
                else value
                for name, value in state['state'][index].items()
            }
    return dict(state, state=divided)
