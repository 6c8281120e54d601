"""Datasets of configs from elsewhere, reduced to the local files that they name."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mmdet.registry import DATASETS

from ..errors import InputError
from .dataset_source import annotation_path, is_coco_format, is_remote, iter_dataset_configs

_PACKAGES = ('mmdet', 'mmdet_dinov2')


def with_local_datasets(
    cfg: Mapping[str, Any], source: str, splits: Sequence[str]
) -> dict[str, Any]:
    """Copies the dataloaders of a config, with datasets that only read local COCO files.

    What builds a dataset imports the module of its type, opens every text in its ``metainfo`` and
    unpickles proposals. So a dataset of a config that is not trusted is not built as it is.

    Args:
        cfg: A config, as plain values.
        source: Where it comes from, for messages.
        splits: Of 'train', 'val' and 'test', those to copy.

    Returns:
        The dataloaders of these splits that are there, such as ``val_dataloader``, each with
        nothing but ``batch_size`` and a dataset without a pipeline.

    Raises:
        InputError: If a dataset is of a different kind, or its files are not on the local disk.
    """
    loaders = {}
    for split in splits:
        key = f'{split}_dataloader'
        found = [
            _local_dataset(name, dataset, source)
            for name, dataset in iter_dataset_configs(cfg, split)
        ]
        if not found:
            continue
        size = cfg[key].get('batch_size')
        several = dict(type='ConcatDataset', datasets=found)
        loaders[key] = dict(dataset=found[0] if len(found) == 1 else several)
        if isinstance(size, int):
            loaders[key]['batch_size'] = size
    return loaders


def _local_dataset(key: str, config: Mapping[str, Any], source: str) -> dict[str, Any]:
    *packages, name = str(config.get('type')).split('.')
    known = DATASETS.module_dict.get(name) or DATASETS.root.module_dict.get(name)
    ours = (
        isinstance(config.get('type'), str)
        and packages in ([], *([package] for package in _PACKAGES))
        and isinstance(known, type)
        and known.__module__.split('.')[0] in _PACKAGES
        and is_coco_format(known)
    )
    if not ours:
        raise InputError(
            f'`{key}.type` in {source} is {config.get("type")!r}, not a dataset of mmdet or of '
            'this project in the format of COCO'
        )
    classes = (config.get('metainfo') or {}).get('classes')
    texts = [config.get('data_root'), (config.get('data_prefix') or {}).get('img')]
    if not (
        all(text is None or isinstance(text, str) for text in texts)
        and isinstance(config.get('ann_file', ''), str)
        and (classes is None or _is_names(classes))
    ):
        raise InputError(f'`{key}` in {source} names paths or classes by other than texts')
    if any(text and is_remote(text, config) for text in (*texts, annotation_path(config))):
        raise InputError(f'the files of `{key}` in {source} are not on the local disk')
    kept = {k: config[k] for k in ('data_root', 'ann_file', 'indices') if k in config}
    if isinstance(texts[1], str):
        kept['data_prefix'] = dict(img=texts[1])
    if classes is not None:
        kept['metainfo'] = dict(classes=tuple(classes))
    return copy.deepcopy(dict(kept, type=config['type'], test_mode=True))


def _is_names(classes: Any) -> bool:
    return isinstance(classes, (list, tuple)) and all(isinstance(name, str) for name in classes)
