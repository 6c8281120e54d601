"""Writes the weights, the config and the classes of a checkpoint, and nothing else."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InputError
from ..files import sha256_of, whole_file
from .embedded_config import CONFIG_KEY, embedded_config
from .load_detector import checkpoint_classes
from .reading import CLASSES_KEY, CONFIG_TEXT_KEY, read_checkpoint, state_dict_of

SUFFIXES = ('.pth', '.safetensors')
# Digits of the hash in a name, as torch.hub and mmengine expect them.
_HASH_LENGTH = 8
_PUBLISHED_META = (CONFIG_TEXT_KEY, CONFIG_KEY, 'dataset_meta')


@dataclass(frozen=True)
class Published:
    """What was written.

    Attributes:
        path: The file; its name ends with the start of its SHA-256.
        size: Its size in bytes.
        size_before: Size of the checkpoint in bytes.
        left_out: Bytes of the tensors in each part that was left out, by key.
    """

    path: Path
    size: int
    size_before: int
    left_out: dict[str, int]


def publish(source: str | os.PathLike, target: str | os.PathLike) -> Published:
    """Writes what a detector needs to predict and to start a training from.

    Optimizer, schedules, logged values and, with averaged weights, those that were not averaged are
    left out, and of ``meta`` everything but the config and the dataset's classes and colours.

    Args:
        source: The checkpoint.
        target: File to write, ``NAME.pth`` or ``NAME.safetensors``; it becomes ``NAME-HASH.pth``.
            Its folder is made if it is missing.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        InputError: If the checkpoint is unsafe, damaged or lacks weights or a config, if the target
            has another suffix, or if it cannot be written.
    """
    source, target = Path(source), Path(target)
    if target.suffix not in SUFFIXES:
        raise InputError(f'{target} must end in {" or ".join(SUFFIXES)}')
    checkpoint = read_checkpoint(source)
    state = state_dict_of(checkpoint, source)
    meta = checkpoint.get('meta') or {}
    if not isinstance(meta.get(CONFIG_TEXT_KEY), str):
        raise InputError(
            f'{source} does not carry its config, so nobody could load what is published of it; '
            'name a checkpoint of a training'
        )
    embedded_config(checkpoint, source)  # who gets the file reads it like this
    kept = {key: meta[key] for key in _PUBLISHED_META if key in meta}
    # One tensor under two names stays one in a .pth; safetensors wants two.
    target.parent.mkdir(parents=True, exist_ok=True)
    # In a folder of its own: a file that is called like the target, such as the source, stays.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        written = Path(folder) / target.name
        with whole_file(written) as partial:
            if target.suffix == '.safetensors':
                tensors = {name: tensor.contiguous().clone() for name, tensor in state.items()}
                save_file(tensors, partial, _as_text(meta, checkpoint_classes(checkpoint)))
            else:
                torch.save(dict(meta=kept, state_dict=state), partial)
        path = target.with_name(f'{target.stem}-{sha256_of(written)[:_HASH_LENGTH]}{target.suffix}')
        os.replace(written, path)
    parts = {key: value for key, value in checkpoint.items() if key not in ('meta', 'state_dict')}
    parts |= {f'meta.{key}': value for key, value in meta.items() if key not in kept}
    left_out = {key: sum(_tensor_bytes(value)) for key, value in parts.items()}
    return Published(path, path.stat().st_size, source.stat().st_size, left_out)


def _as_text(meta: Mapping[str, Any], classes: tuple[str, ...] | None) -> dict[str, str]:
    """Returns config and classes as the texts that a safetensors file may hold."""
    texts = {'format': 'pt', CONFIG_TEXT_KEY: meta[CONFIG_TEXT_KEY]}
    return texts if classes is None else {**texts, CLASSES_KEY: json.dumps(classes)}


def _tensor_bytes(value: Any) -> Iterator[int]:
    if isinstance(value, Tensor):
        yield value.numel() * value.element_size()
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensor_bytes(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensor_bytes(item)
