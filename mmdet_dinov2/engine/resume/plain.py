"""Checkpoints of plain values, which ``torch.load`` opens without an exception to its rules.

mmengine keeps the logged values of a run in objects of its own (``HistoryBuffer``) and saves these.
PyTorch 2.6 and later refuse such a file, and with it whatever reads checkpoints. Here the histories
are written as tensors under a key of their own and become histories again when a run resumes;
mmengine's runner, which does not know the key, resumes without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

# Of `message_hub` in a checkpoint: values and counts by name.
HISTORIES = 'log_histories'
_NOT_PLAIN = object()


def make_plain(checkpoint: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Turns a checkpoint into tensors, numbers, texts, lists, tuples and dicts.

    numpy's numbers and arrays become numbers and tensors, and classes become their names. What has
    no plain form is left out.

    Args:
        checkpoint: Checkpoint in the layout of mmengine.

    Returns:
        The plain checkpoint, which shares the tensors, and the type of each value that was left
        out, by key.
    """
    left_out: dict[str, str] = {}
    checkpoint = dict(checkpoint)
    if isinstance(checkpoint.get('message_hub'), Mapping):
        checkpoint['message_hub'] = _without_histories(checkpoint['message_hub'])
    return _plain(checkpoint, '', left_out), left_out


def restore_histories(message_hub: dict[str, Any]) -> None:
    """Turns the plain histories of a message hub into mmengine's, in place.

    Args:
        message_hub: ``message_hub`` of a checkpoint; that of mmengine, which has no plain
            histories, stays as it is.
    """
    for name, history in message_hub.pop(HISTORIES, {}).items():
        message_hub['log_scalars'][name] = HistoryBuffer(
            # A run on a GPU reads all tensors of a checkpoint onto it.
            history['values'].cpu().numpy(),
            history['counts'].cpu().numpy(),
            history['max_length'],
        )
        message_hub['resumed_keys'][name] = True


def _without_histories(message_hub: Mapping[str, Any]) -> dict[str, Any]:
    """Moves the histories of a message hub to a key that mmengine does not read.

    mmengine warns about each name in ``resumed_keys`` that has no value.
    """
    scalars = message_hub['log_scalars']
    histories = {
        name: dict(
            values=_tensor(buffer.data[0]), counts=_tensor(buffer.data[1]),
            max_length=buffer.max_length,
        )
        for name, buffer in scalars.items()
        if isinstance(buffer, HistoryBuffer)
    }  # fmt: skip
    resumed = message_hub['resumed_keys']
    return {
        **message_hub,
        'log_scalars': {name: v for name, v in scalars.items() if name not in histories},
        'resumed_keys': {name: v for name, v in resumed.items() if name not in histories},
        HISTORIES: histories,
    }


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))


def _plain(value: Any, key: str, left_out: dict[str, str]) -> Any:
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return value
    if isinstance(value, Tensor):
        # Parameters and other subclasses of tensors are rebuilt by functions of their own.
        return value.detach() if type(value) is not Tensor else value
    if isinstance(value, Mapping):
        items = {}
        for name, item in value.items():
            path = f'{key}.{name}' if key else str(name)
            pair = _plain(name, path, left_out), _plain(item, path, left_out)
            if not any(part is _NOT_PLAIN for part in pair):
                items[pair[0]] = pair[1]
        return items
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [_plain(item, f'{key}.{i}', left_out) for i, item in enumerate(value)]
        items = [item for item in items if item is not _NOT_PLAIN]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, np.generic):
        return _plain(value.item(), key, left_out)
    if isinstance(value, np.ndarray) and value.dtype.kind in 'biufc':
        return _tensor(value)
    if isinstance(value, (bool, int, float, str)):
        return next(kind(value) for kind in (bool, int, float, str) if isinstance(value, kind))
    if isinstance(value, type):
        return f'{value.__module__}.{value.__qualname__}'
    left_out[key] = type(value).__name__
    return _NOT_PLAIN
