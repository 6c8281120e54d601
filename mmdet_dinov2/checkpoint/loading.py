"""Loading of whole models, with nothing left to chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ..errors import InputError

_SHOWN = 3


def load_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Loads all parameters and buffers of a model, or none.

    Args:
        model: The model.
        state_dict: Tensors by name; a leading 'module.' of a distributed wrapper is dropped.
        source: Where the tensors come from, for the message.

    Raises:
        InputError: If a tensor is missing, unknown or of another shape; the model stays as it was.
    """
    state_dict = {name.removeprefix('module.'): tensor for name, tensor in state_dict.items()}
    expected = model.state_dict()
    missing = [name for name in expected if name not in state_dict]
    unknown = [name for name in state_dict if name not in expected]
    reshaped = [
        f'{name} {tuple(state_dict[name].shape)} instead of {tuple(tensor.shape)}'
        for name, tensor in expected.items()
        if name in state_dict and state_dict[name].shape != tensor.shape
    ]
    problems = [
        f'{len(names)} {what} ({_first(names)})'
        for what, names in (
            ('missing', missing),
            ('unknown', unknown),
            ('of another shape', reshaped),
        )
        if names
    ]
    if problems:
        raise InputError(
            f'{source} is the checkpoint of another model: of {len(expected)} tensors, '
            f'{", ".join(problems)}; give the config that the checkpoint was trained with'
        )
    model.load_state_dict(state_dict)


def _first(names: Sequence[str]) -> str:
    return ', '.join(names[:_SHOWN]) + (', ...' if len(names) > _SHOWN else '')
