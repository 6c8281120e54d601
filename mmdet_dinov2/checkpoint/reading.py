"""Reads checkpoint and pickle files without running what is in them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import urllib.error
import urllib.parse
import zipfile
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
# Where to get what cannot be downloaded from its address, by the start of the address.
_WHERE = {
    'https://dl.fbaipublicfiles.com/dinov3/': (
        'Meta sends addresses for downloading DINOv3 to those who fill in the form at '
        'https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/; '
    ),
}
# Where no two files have the same name.
_UNIQUE_NAMES = ('dl.fbaipublicfiles.com', 'download.pytorch.org')
# Names of the config and the classes in `meta` and in safetensors files of this project.
CONFIG_TEXT_KEY = 'cfg'
CLASSES_KEY = 'classes'


def trust_checkpoints() -> None:
    """Lets this process and its children unpickle anything, for files from a trusted source."""
    os.environ[_TRUST_VARIABLE] = '1'


def trusts_checkpoints() -> bool:
    """Returns whether :func:`trust_checkpoints` was called."""
    return bool(os.environ.get(_TRUST_VARIABLE))


def read_checkpoint(
    source: str | os.PathLike, map_location: Any = 'cpu', mmap: bool = False
) -> dict[str, Any]:
    """Reads a checkpoint file.

    Files are loaded with ``weights_only=True`` or as safetensors. Besides tensors, they may hold
    what mmengine saves: numpy numbers and the histories of logged values. mmengine's own loader
    admits more, such as ``getattr``, with which a crafted file runs code; if that fails, it
    unpickles anything.

    Args:
        source: Path or URL. Downloads are kept in the cache folder of ``torch.hub``.
        map_location: Where tensors are put, as in ``torch.load``.
        mmap: Whether tensors stay in the file until they are used.

    Returns:
        The content; a file of tensors alone is a dict of tensors. A safetensors file that names
        config or classes has ``state_dict`` and ``meta`` like a checkpoint.

    Raises:
        FileNotFoundError: If the file does not exist, or cannot be downloaded.
        InputError: If the file is damaged, does not hold a dict, or would run code.
    """
    path = _download(str(source)) if '://' in str(source) else Path(source)
    if not path.is_file():
        raise MissingFileError(f'checkpoint {path} does not exist; check the path')
    if path.suffix == '.safetensors':
        return _read_safetensors(path, map_location)
    _refuse_compressed(path)
    try:
        if trusts_checkpoints():
            content = torch.load(path, map_location=map_location, weights_only=False, mmap=mmap)
        else:
            with torch.serialization.safe_globals(_IN_CHECKPOINTS):
                content = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise InputError(_explain(path, error)) from error
    if not isinstance(content, dict):
        raise InputError(
            f'checkpoint {path} holds a {type(content).__name__} instead of a dict of tensors; '
            'check the path'
        )
    return content


def read_pickle(path: str | os.PathLike) -> Any:
    """Reads a pickle file of tensors, arrays and plain values, without running any of it.

    Raises:
        pickle.UnpicklingError: If it refers to other objects. A damaged file can raise any error.
    """
    with open(path, 'rb') as file:
        return _PlainUnpickler(file).load()


def state_dict_of(checkpoint: Mapping[str, Any], source: str | os.PathLike) -> dict[str, Tensor]:
    """Returns the tensors of a checkpoint by name; arrays of numbers become tensors.

    Several projects keep them under a key such as 'state_dict'.

    Raises:
        InputError: If there are no tensors.
    """
    state = named_tensors(checkpoint)
    if not state:
        raise InputError(
            f'checkpoint {source} must hold tensors, but holds only '
            f'{sorted(_holder(checkpoint))[:5]}; check the path'
        )
    return state


def named_tensors(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns what :func:`state_dict_of` does, or an empty dict if there are no tensors."""
    return {
        name: torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
        for name, value in _holder(checkpoint).items()
        if isinstance(value, Tensor)
        or (isinstance(value, np.ndarray) and value.dtype.kind in 'biuf' and value.dtype.isnative)
    }


def _holder(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the part of a checkpoint that holds the tensors."""
    parts = (checkpoint.get(key) for key in _STATE_KEYS)
    return next((part for part in parts if isinstance(part, Mapping)), checkpoint)


def _refuse_compressed(path: Path) -> None:
    """Refuses archives with compressed parts, of which a small file can hold gigabytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist())
    except (zipfile.BadZipFile, OSError):  # another format of torch, or damaged
        return
    if packed:
        raise InputError(
            f'checkpoint {path} has compressed parts, which torch does not write, so it is refused'
        )


def _download(url: str) -> Path:
    path = Path(torch.hub.get_dir()) / 'checkpoints' / _file_name(url)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Writes to a temporary file and renames it.
            torch.hub.download_url_to_file(url, str(path), progress=False)
        except (urllib.error.URLError, OSError) as error:
            where = next((text for start, text in _WHERE.items() if url.startswith(start)), '')
            raise MissingFileError(
                f'{url} cannot be reached ({_first_sentence(error)}): {where}put the file at '
                f'{path}, or name a local copy in init_cfg.checkpoint; to train without pretrained '
                'weights set model.backbone.init_cfg=None'
            ) from error
    return path


def _file_name(url: str) -> str:
    """Returns the name of the kept copy of a download, different for each address.

    The rest of the address, such as a signature, says nothing about the file.
    """
    address = urllib.parse.urlparse(url)
    *folders, name = address.path.strip('/').split('/')
    if address.netloc in _UNIQUE_NAMES:
        return name  # as torch.hub, so that each has the copies of the other
    if folders[2:3] == ['resolve']:
        # Hugging Face: OWNER/REPOSITORY/resolve/REVISION/FILE
        return '--'.join([*folders[:2], *folders[3:], name])
    digest = hashlib.sha256(f'{address.netloc}/{address.path}'.encode()).hexdigest()
    return f'{digest[:12]}-{name}'


def _read_safetensors(path: Path, map_location: Any) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        tensors = load_file(path, device=str(map_location))
        with safe_open(path, 'pt') as file:
            texts = file.metadata() or {}
        meta: dict[str, Any] = {}
        if CONFIG_TEXT_KEY in texts:
            meta[CONFIG_TEXT_KEY] = texts[CONFIG_TEXT_KEY]
        if CLASSES_KEY in texts:
            meta['dataset_meta'] = dict(classes=tuple(json.loads(texts[CLASSES_KEY])))
        return dict(state_dict=tensors, meta=meta) if meta else tensors
    except (SafetensorError, ValueError) as error:
        raise InputError(
            f'checkpoint {path} is not a complete safetensors file ({_first_sentence(error)}); '
            'get it again'
        ) from error


def _history_method(owner: Any, name: str) -> Any:
    """Stands for ``getattr`` in a file: returns the statistics of ``HistoryBuffer``, no more."""
    if owner is HistoryBuffer and name in ('min', 'max', 'mean', 'current'):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'it asks for attribute {name!r} of {owner!r}')


def _load_storage(content: bytes) -> Any:
    """Loads the storage of a tensor; torch's own function would unpickle anything in it."""
    return torch.load(io.BytesIO(content), map_location='cpu', weights_only=True)


class _Dtype:
    """Stands for ``numpy.dtype`` in a file.

    numpy believes what a file says about a type: that bytes are references to objects, for example,
    which then lead anywhere. So a type here is that of a number.
    """

    def __init__(self, name: str, *flags: object) -> None:
        if not re.fullmatch(r'[biuf]\d{1,2}', name):
            raise pickle.UnpicklingError(f'it asks for values of the type {name!r:.40}')
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        _, order, *parts = state[:5]
        if parts != [None] * 3:
            raise pickle.UnpicklingError('it asks for values of several types')
        self.dtype = self.dtype.newbyteorder(order)

    def __reduce__(self) -> tuple:
        return self.dtype.__reduce__()


class _Array(np.ndarray):
    """Stands for ``numpy.ndarray`` in a file: an array of numbers, whose content is set later.

    numpy's own class makes an array of objects of any bytes.
    """

    def __new__(cls, *args: object) -> _Array:
        return super().__new__(cls, 0, np.uint8)

    def __reduce_ex__(self, protocol: int) -> tuple:
        # Written as what it stands for.
        return self.view(np.ndarray).__reduce_ex__(protocol)

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, in_columns, content = state
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise pickle.UnpicklingError('it asks for an array of other than numbers')
        super().__setstate__((version, shape, dtype.dtype, in_columns, content))


def _reconstruct(*args: object) -> _Array:
    return _Array()


def _scalar(dtype: _Dtype, content: bytes) -> np.generic:
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError('it asks for a number without a type')
    return np.frombuffer(content, dtype.dtype, 1)[0]


# What numpy's arrays and numbers refer to, by the names of numpy 1 and 2.
_ARRAYS = {
    'numpy.ndarray': _Array,
    'numpy.dtype': _Dtype,
    **{
        f'numpy.{core}.multiarray.{name}': function
        for core in ('core', '_core')
        for name, function in (('_reconstruct', _reconstruct), ('scalar', _scalar))
    },
}
# What mmengine's checkpoints refer to besides tensors, which torch admits by itself.
_IN_CHECKPOINTS = [
    *((value, name) for name, value in _ARRAYS.items()),
    slice,
    HistoryBuffer,
    (_history_method, 'builtins.getattr'),
]


def _latin_bytes(text: str, encoding: str) -> bytes:
    """Returns bytes that were pickled as text; other encodings of Python could unpack anything."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'it asks for the encoding {encoding!r:.40}')
    return text.encode('latin1')


# What tensors and arrays in a plain pickle file refer to.
_IN_PICKLES = {
    **_ARRAYS,
    'collections.OrderedDict': dict,
    'torch._utils._rebuild_tensor_v2': torch.empty(0).__reduce_ex__(2)[0],
    'torch.storage._load_from_bytes': _load_storage,
    # Bytes in pickles of protocol 2, which mmengine writes.
    '_codecs.encode': _latin_bytes,
}


class _PlainUnpickler(pickle.Unpickler):
    """Admits tensors, arrays and plain values, nothing that runs code."""

    def find_class(self, module: str, name: str) -> Any:
        if f'{module}.{name}' not in _IN_PICKLES:
            raise pickle.UnpicklingError(f'it asks for {module}.{name}')
        return _IN_PICKLES[f'{module}.{name}']


def _explain(path: Path, error: Exception) -> str:
    """Explains in one sentence why a file could not be read."""
    reason = ' '.join(str(error).split())
    # The message of torch for a type or function that it does not admit, or of `_history_method`.
    wanted = re.search(r'GLOBAL (\S+)|(it asks for attribute .*?)(?: Check|$)', reason)
    if isinstance(error, pickle.UnpicklingError) and wanted:
        return (
            f'checkpoint {path} wants to run code while it is loaded '
            f'({wanted[1] or wanted[2]}), so it is refused; add {TRUST_FLAG} only if you '
            'trust its author'
        )
    return (
        f'checkpoint {path} ({path.stat().st_size} bytes) cannot be read: it is damaged or is not '
        f'a checkpoint ({_first_sentence(error)}); get it again'
    )


def _first_sentence(error: Exception) -> str:
    """Returns the start of a message that may be pages long."""
    return ' '.join(str(error).split()).split('. ')[0][:160] or type(error).__name__
