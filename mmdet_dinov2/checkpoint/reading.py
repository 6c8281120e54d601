"""Reading of checkpoint files without running what is in them."""

from __future__ import annotations

import os
import pickle
import re
import urllib.error
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from ..errors import InputError, MissingFileError

TRUST_FLAG = '--trust-checkpoint'
_TRUST_VARIABLE = 'MMDET_DINOV2_TRUST_CHECKPOINT'
# Where checkpoints of several projects keep their tensors.
_STATE_KEYS = ('state_dict', 'model', 'teacher')


def trust_checkpoints() -> None:
    """Lets this process and those that it starts unpickle anything; for files of a known origin."""
    os.environ[_TRUST_VARIABLE] = '1'


def trusts_checkpoints() -> bool:
    """Whether :func:`trust_checkpoints` was called."""
    return bool(os.environ.get(_TRUST_VARIABLE))


def read_checkpoint(
    source: str | os.PathLike, map_location: Any = 'cpu', mmap: bool = False
) -> dict[str, Any]:
    """Reads a checkpoint file.

    Files are loaded with ``weights_only=True`` or as safetensors. Besides tensors, what mmengine
    writes beside them is admitted: numpy numbers and the histories of logged values. mmengine's own
    loader admits more, ``getattr`` among it, with which a crafted file runs code, and unpickles
    anything where that fails.

    Args:
        source: Path or URL. What comes from a URL is kept in the cache folder of ``torch.hub``.
        map_location: Where tensors are put, as in ``torch.load``.
        mmap: Whether tensors stay in the file until they are used.

    Returns:
        The content; a file of tensors alone is a dict of tensors.

    Raises:
        FileNotFoundError: If there is no such file, or no network and no copy of it.
        InputError: If the file is damaged, holds no dict, or would run code.
    """
    path = _download(str(source)) if '://' in str(source) else Path(source)
    if not path.is_file():
        raise MissingFileError(f'checkpoint {path} does not exist; check the path')
    if path.suffix == '.safetensors':
        return _read_safetensors(path, map_location)
    try:
        if trusts_checkpoints():
            content = torch.load(path, map_location=map_location, weights_only=False, mmap=mmap)
        else:
            with torch.serialization.safe_globals(_admitted()):
                content = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise InputError(_explain(path, error)) from error
    if not isinstance(content, dict):
        raise InputError(
            f'checkpoint {path} holds a {type(content).__name__} instead of a dict of tensors'
        )
    return content


def state_dict_of(checkpoint: Mapping[str, Any], source: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors by name of a checkpoint, which may keep them under a key such as 'state_dict'.

    Raises:
        InputError: If there are none.
    """
    for key in _STATE_KEYS:
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
            break
    state = {name: value for name, value in checkpoint.items() if isinstance(value, Tensor)}
    if not state:
        raise InputError(f'checkpoint {source} holds no tensors, only {sorted(checkpoint)[:5]}')
    return state


def cached_path(url: str) -> Path:
    """Where the file of a URL is kept."""
    name = os.path.basename(urllib.parse.urlparse(url).path)
    return Path(torch.hub.get_dir()) / 'checkpoints' / name


def _download(url: str) -> Path:
    path = cached_path(url)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Writes to a temporary file and renames it.
            torch.hub.download_url_to_file(url, str(path), progress=False)
        except (urllib.error.URLError, OSError) as error:
            raise MissingFileError(
                f'{url} cannot be reached ({_first_sentence(error)}): put the file at {path}, or '
                'name a local copy in init_cfg.checkpoint; to train without pretrained weights set '
                'model.backbone.init_cfg=None'
            ) from error
    return path


def _read_safetensors(path: Path, map_location: Any) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device=str(map_location))
    except SafetensorError as error:
        raise InputError(
            f'checkpoint {path} is no complete safetensors file ({_first_sentence(error)}); '
            'get it again'
        ) from error


def _history_method(owner: Any, name: str) -> Any:
    """Stands for ``getattr`` in a file: the statistics that a HistoryBuffer refers to, no more."""
    if owner is HistoryBuffer and name in ('min', 'max', 'mean', 'current'):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'it asks for attribute {name!r} of {owner!r}')


def _admitted() -> list:
    """What a checkpoint may refer to besides tensors."""
    numbers = (np.uint8, np.uint32, np.int32, np.int64, np.float32, np.float64, np.bool_)
    return [
        slice,
        np.ndarray,
        np.dtype,
        (np._core.multiarray._reconstruct, 'numpy.core.multiarray._reconstruct'),
        (np._core.multiarray._reconstruct, 'numpy._core.multiarray._reconstruct'),
        (np._core.multiarray.scalar, 'numpy.core.multiarray.scalar'),
        (np._core.multiarray.scalar, 'numpy._core.multiarray.scalar'),
        *(type(np.dtype(number)) for number in numbers),
        HistoryBuffer,
        (_history_method, 'builtins.getattr'),
    ]


def _explain(path: Path, error: Exception) -> str:
    """One sentence about a file that could not be read."""
    reason = ' '.join(str(error).split())
    # What torch names a type or function that it does not admit, or our own `_history_method`.
    wanted = re.search(r'GLOBAL (\S+)|(it asks for attribute .*?)(?: Check|$)', reason)
    if isinstance(error, pickle.UnpicklingError) and wanted:
        return (
            f'checkpoint {path} wants to run code while it is loaded '
            f'({wanted[1] or wanted[2]}), so it is refused; only if you trust whoever made it, '
            f'load it with {TRUST_FLAG}'
        )
    return (
        f'checkpoint {path} ({path.stat().st_size} bytes) cannot be read, it is damaged or not a '
        f'checkpoint ({_first_sentence(error)}); get it again'
    )


def _first_sentence(error: Exception) -> str:
    """The start of a message that may go on for pages."""
    return ' '.join(str(error).split()).split('. ')[0][:160] or type(error).__name__
