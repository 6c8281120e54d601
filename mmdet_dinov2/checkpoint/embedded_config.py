"""Reads the config that a checkpoint carries, without running any of it.

mmengine saves the config of a run as Python text, and executes that text to read it. Here the text
is parsed, and only literals are accepted. Literals can still name something to build
(``dict(type='subprocess.Popen', ...)``), so only the names of parts of a detector and of its
transforms are accepted.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mmcv.ops
from mmdet.datasets.transforms import RandomSamplingNegPos
from mmdet.models.dense_heads.atss_vlfusion_head import ATSSVLFusionHead
from mmdet.models.detectors import KnowledgeDistillationSingleStageDetector
from mmdet.models.detectors.d2_wrapper import Detectron2Wrapper
from mmdet.registry import MODELS, TASK_UTILS, TRANSFORMS
from mmengine.registry import Registry
from mmengine.utils import import_modules_from_strings
from torch import nn

from ..config.plain import NotPlainError, read_plain_config
from ..errors import InputError
from .reading import TRUST_FLAG, trusts_checkpoints

# Beside mmengine's text, which other programs read.
CONFIG_KEY = 'config_data'

# Language models and trackers are left out: they evaluate or load what a config names.
_MODULES = (
    'mmcv.cnn',
    'mmcv.ops',
    'mmcv.transforms',
    'mmdet.datasets.transforms',
    'mmdet.models.backbones',
    'mmdet.models.data_preprocessors',
    'mmdet.models.dense_heads',
    'mmdet.models.detectors',
    'mmdet.models.layers',
    'mmdet.models.losses',
    'mmdet.models.necks',
    'mmdet.models.roi_heads',
    'mmdet.models.seg_heads',
    'mmdet.models.task_modules.assigners',
    'mmdet.models.task_modules.coders',
    'mmdet.models.task_modules.prior_generators',
    'mmdet.models.task_modules.samplers',
    'mmdet_dinov2',
    'mmengine.model',
    'mmengine.utils.dl_utils',
    'torch.nn',
)
# Parts of these modules that read other configs, checkpoints, files or language models, some of
# which may run code.
_READERS = (
    KnowledgeDistillationSingleStageDetector,
    Detectron2Wrapper,
    ATSSVLFusionHead,
    RandomSamplingNegPos,
)
_OWN_READERS = ('ExportedDetector',)
# Arguments of transforms that say where files are, other than on the local disk.
_STORAGES = ('backend_args', 'file_client_args')
_PACKAGES = ('mmcv', 'mmdet', 'mmdet_dinov2', 'mmengine', 'torch')
_IMPORTED = ('mmdet', 'mmdet_dinov2')
# `type` of functions that are not registered; mmcv evaluates them as Python.
_FUNCTIONS = ('nms', 'soft_nms')


def plain_config(cfg: Mapping[str, Any]) -> dict[str, Any] | None:
    """Copies a config into plain values; returns None if it has other values.

    Plain values are dicts, lists, tuples, strings, numbers and None; a class becomes its name.
    """
    try:
        return _plain(dict(cfg))
    except TypeError:
        return None


def embedded_config(checkpoint: Mapping[str, Any], source: str | os.PathLike) -> dict[str, Any]:
    """Reads the config of a checkpoint and imports the packages that it names.

    Args:
        checkpoint: Content of the checkpoint.
        source: Where the checkpoint comes from, for messages.

    Returns:
        The parts that predictions need; see :func:`for_prediction`.

    Raises:
        InputError: If the checkpoint does not have a config, or if its config could run code and
            checkpoints are not trusted.
    """
    return checked_parts(whole_config(checkpoint, source), source)


def checked_parts(content: Mapping[str, Any], source: str | os.PathLike) -> dict[str, Any]:
    """Takes from a config what predictions need, and imports the packages that it names.

    Args:
        content: A config as plain values.
        source: Where it comes from, for messages.

    Returns:
        As :func:`embedded_config`.

    Raises:
        InputError: If the config could run code and checkpoints are not trusted.
    """
    imports = _imports(content.get('custom_imports'))
    if not trusts_checkpoints():
        _refuse_foreign_imports(imports, source)
    import_modules_from_strings(imports)
    content = for_prediction(content, source)
    if not trusts_checkpoints():
        _refuse_foreign_types(content, source)
    return content


def whole_config(checkpoint: Mapping[str, Any], source: str | os.PathLike) -> dict[str, Any]:
    """Reads the whole config of a checkpoint as plain values; nothing in it is built or imported.

    Args:
        checkpoint: Content of the checkpoint.
        source: Where the checkpoint comes from, for messages.

    Raises:
        InputError: If the checkpoint does not have a config of plain values.
    """
    meta = checkpoint.get('meta') or {}
    if isinstance(meta.get(CONFIG_KEY), Mapping):
        return _plain(meta[CONFIG_KEY])
    if isinstance(meta.get('cfg'), str):
        return _read_text(meta['cfg'], source)
    raise InputError(f'{source} does not carry its config; also name a config file')


def for_prediction(cfg: Mapping[str, Any], source: str | os.PathLike) -> dict[str, Any]:
    """Copies ``model`` and the test ``pipeline`` of a config.

    All weights come from the checkpoint: ``init_cfg`` and ``pretrained`` are removed from all parts
    of the model, so nothing is downloaded and no other file is read. Images come from the local
    disk: other storages import a module from a place that the config names.

    Raises:
        InputError: If the config lacks a model or a test pipeline.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while isinstance(dataset.get('dataset'), Mapping):
        dataset = dataset['dataset']
    parts = dict(model=cfg.get('model'), pipeline=dataset.get('pipeline'))
    missing = [name for name, part in parts.items() if not part]
    if missing:
        raise InputError(
            f'the config in {source} lacks {" and ".join(missing)}; to predict, it needs a model '
            'and a test_dataloader with the pipeline of its dataset'
        )
    parts = {name: copy.deepcopy(part) for name, part in parts.items()}
    for part, keys in (('model', ('init_cfg', 'pretrained')), ('pipeline', _STORAGES)):
        for node in _walk(parts[part]):
            if isinstance(node, dict):
                node.update({key: None for key in keys if key in node})
    return parts


def _read_text(text: str, source: str | os.PathLike) -> dict[str, Any]:
    try:
        return read_plain_config(text)
    except NotPlainError as error:
        raise InputError(
            f'the config in {source} is not made of plain values ({error}), so it is not read; '
            'also name a config file'
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, type):
        return f'{value.__module__}.{value.__name__}'
    raise TypeError(f'{value!r} is not a plain value')


def _imports(custom_imports: Any) -> list[str]:
    names = custom_imports.get('imports') if isinstance(custom_imports, Mapping) else custom_imports
    return [names] if isinstance(names, str) else list(names or ())


def _refuse_foreign_imports(imports: Sequence[str], source: str | os.PathLike) -> None:
    foreign = [name for name in imports if str(name).split('.')[0] not in _IMPORTED]
    if foreign:
        raise InputError(
            f'the config in {source} asks to import {", ".join(map(repr, foreign))}, which runs '
            f'code; add {TRUST_FLAG} only if you trust its author, or name a config file'
        )


def _refuse_foreign_types(content: Mapping[str, Any], source: str | os.PathLike) -> None:
    known = set(_FUNCTIONS).union(
        _roi_layers(), *map(_registered, (MODELS.root, TRANSFORMS.root, TASK_UTILS.root))
    )
    for node in _walk(content):
        if not isinstance(node, Mapping):
            continue
        for key in ('type', '_scope_'):
            value = node.get(key)
            if value is None:
                continue
            *packages, name = str(value).split('.')
            fits = name in known if key == 'type' else not packages and name in _PACKAGES
            fits = fits and all(map(str.isidentifier, packages))
            if not fits or (packages and packages[0] not in _PACKAGES):
                raise InputError(
                    f'the config in {source} names {value!r} as {key!r}, which is not a part of '
                    f'a detector that is known to run no code; add {TRUST_FLAG} only if you trust '
                    'its author, or name a config file'
                )


def _registered(registry: Registry) -> Iterator[str]:
    """Yields the names of a registry and its children whose code does nothing but build parts."""
    for name, found in registry.module_dict.items():
        module = f'{getattr(found, "__module__", "")}.'
        reads = isinstance(found, type) and issubclass(found, _READERS)
        reads |= name in _OWN_READERS
        if not reads and any(module.startswith(f'{known}.') for known in _MODULES):
            yield name
    for child in registry.children.values():
        yield from _registered(child)


@functools.cache
def _roi_layers() -> frozenset[str]:
    """Returns the modules of mmcv that mmdet takes by name for ``roi_layer``, registered or not."""
    return frozenset(
        name
        for name, found in vars(mmcv.ops).items()
        if isinstance(found, type) and issubclass(found, nn.Module)
    )


def _walk(node: Any) -> Iterator[Any]:
    yield node
    if isinstance(node, Mapping):
        node = node.values()
    elif not isinstance(node, (list, tuple)):
        return
    for value in node:
        yield from _walk(value)
