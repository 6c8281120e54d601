"""States of models and optimizers whose tensors are divided over processes.

Checkpoints always hold whole tensors, so that one saved by any number of processes, sharded or not,
loads on any other number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(model: nn.Module) -> bool:
    """Whether parameters of a model are divided over processes."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def gather(value: Any, device: str | torch.device | None = None, keep: bool = True) -> Any:
    """Makes the tensors in nested dicts, lists and tuples whole.

    All processes have to call it, as those that hold the parts send them.

    Args:
        value: What may contain divided tensors.
        device: Where tensors are moved to; None leaves them where they are.
        keep: Whether this process wants them; others get None in the place of divided tensors, and
            hold one whole tensor at a time.
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
    """Divides a whole tensor as another one is; a target that is whole leaves it as it is."""
    if not isinstance(target, DTensor) or isinstance(value, DTensor):
        return value
    value = value.to(target.device)
    return distribute_tensor(value, target.device_mesh, target.placements)


def load_model_state(model: nn.Module, state_dict: Mapping[str, Tensor], strict: bool) -> None:
    """``model.load_state_dict`` with whole tensors, whatever the model has.

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
    """Divides the tensors of a whole optimizer state as the parameters of an optimizer are.

    Args:
        state: ``state_dict`` of an optimizer of the same parameters.
        optimizer: The optimizer.

    Returns:
        What ``optimizer.load_state_dict`` takes.
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
