"""The datasets that a config names, without wrappers, their paths and classes resolved."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.utils import is_abs

from ..errors import InputError
from ..wording import name_some
from .coco_dataset import ClassNameCocoDataset


# Compared and hashed by identity, since the config in it cannot be hashed.
@dataclass(frozen=True, eq=False)
class DatasetSource:
    """What one COCO-format dataset config reads.

    Attributes:
        split: ``'train'``, ``'val'`` or ``'test'``.
        key: Where the dataset is in the config, such as ``train_dataloader.dataset``.
        config: The dataset config itself.
        classes: The class names, in label order.
        ann_file: Path of the annotation file as mmdet opens it, or an empty string.
        image_folder: Folder that image file names are relative to, or ``None`` if ``data_prefix``
            lacks ``img``.
    """

    split: str
    key: str
    config: Mapping[str, Any]
    classes: tuple[str, ...]
    ann_file: str
    image_folder: str | None

    @property
    def classes_origin(self) -> str:
        """What sets the classes, as messages name it."""
        if 'classes' in (self.config.get('metainfo') or {}):
            return f'`{self.key}.metainfo.classes`'
        name = self.config['type']
        name = name if isinstance(name, str) else name.__name__
        return f'`{name}.METAINFO` (as `{self.key}.metainfo.classes` is unset)'

    @property
    def by_name(self) -> bool:
        """Whether labels follow the names of the classes and missing fields are filled in."""
        return issubclass(dataset_class(self.key, self.config), ClassNameCocoDataset)

    @property
    def min_size(self) -> float:
        """Side in pixels below which ``filter_cfg`` removes an image; 0 if it removes none."""
        if self.config.get('test_mode'):
            return 0
        return (self.config.get('filter_cfg') or {}).get('min_size', 0)


def iter_dataset_configs(
    cfg: Mapping[str, Any], split: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields ``(key, config)`` of every dataset of a split, also of those inside wrappers."""
    loader = cfg.get(f'{split}_dataloader')
    if isinstance(loader, Mapping) and isinstance(loader.get('dataset'), Mapping):
        yield from _unwrap(f'{split}_dataloader.dataset', loader['dataset'])


def _unwrap(key: str, config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(config.get('dataset'), Mapping):
        yield from _unwrap(f'{key}.dataset', config['dataset'])
    elif isinstance(config.get('datasets'), (list, tuple)):
        for index, inner in enumerate(config['datasets']):
            if isinstance(inner, Mapping):
                yield from _unwrap(f'{key}.datasets.{index}', inner)
    else:
        yield key, config


def dataset_class(key: str, config: Mapping[str, Any]) -> type:
    """Returns the class that a dataset config names.

    Raises:
        InputError: If mmdet's registry does not have it.
    """
    name = config.get('type')
    found = name if isinstance(name, type) else None
    if isinstance(name, str):
        try:
            found = DATASETS.get(name)
        except ImportError:
            found = None
    if found is None:
        raise InputError(
            f'`{key}.type` is {name!r}, which is not in the registry of datasets; correct the '
            'name, or list the module that registers it in `custom_imports`'
        )
    return found


def is_coco_format(cls: type) -> bool:
    """Returns whether a class reads COCO JSON as ``CocoDataset`` or ``ClassNameCocoDataset`` does.

    A subclass with its own loading or parsing (LVIS, Objects365, panoptic) does not.
    """
    return (
        issubclass(cls, CocoDataset)
        and cls.load_data_list in (CocoDataset.load_data_list, ClassNameCocoDataset.load_data_list)
        and cls.parse_data_info is CocoDataset.parse_data_info
    )


def read_source(split: str, key: str, config: Mapping[str, Any]) -> DatasetSource:
    """Resolves the paths and classes of a COCO-format dataset config as mmdet resolves them.

    Raises:
        InputError: If ``metainfo`` does not list class names, each once.
    """
    data_root = config.get('data_root')
    prefix = (config.get('data_prefix') or {}).get('img')
    return DatasetSource(
        split=split,
        key=key,
        config=config,
        classes=_read_classes(key, config),
        ann_file=annotation_path(config),
        image_folder=None if prefix is None else _join(data_root, prefix, join_empty=True),
    )


def annotation_path(config: Mapping[str, Any]) -> str:
    """Returns the annotation file of a dataset config as mmdet opens it, or an empty string."""
    return _join(config.get('data_root'), config.get('ann_file') or '')


def is_remote(path: str, config: Mapping[str, Any]) -> bool:
    """Returns whether mmdet reads the path through a backend other than the local file system."""
    backend = (config.get('backend_args') or {}).get('backend', 'local')
    return '://' in path or backend != 'local'


def _join(data_root: str | None, path: str, join_empty: bool = False) -> str:
    if (path or join_empty) and data_root and not is_abs(path):
        return os.path.join(data_root, path)
    return path


def _read_classes(key: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    metainfo = config.get('metainfo') or {}
    if not isinstance(metainfo, Mapping):
        raise InputError(
            f'`{key}.metainfo` must be a dict such as dict(classes=(...)), but is {metainfo!r}'
        )
    if 'CLASSES' in metainfo and 'classes' not in metainfo:
        raise InputError(
            f"`{key}.metainfo` has the key 'CLASSES', which mmdet 3 ignores; rename it to 'classes'"
        )
    # Private in mmengine. The public way is to build the dataset, which needs a sound config: this
    # fills in the METAINFO of the class, and reads names from a text file.
    classes = dataset_class(key, config)._load_metainfo(metainfo).get('classes')
    if isinstance(classes, str):
        raise InputError(
            f'`{key}.metainfo.classes` must be a list of names or a text file, but is the string '
            f'{classes!r}; write ({classes!r}, ) with the comma for a single class'
        )
    if not classes:
        raise InputError(
            f'`{key}.metainfo.classes` is empty; set it to the category names of the annotation '
            'file'
        )
    classes = tuple(classes)
    repeated = sorted({name for name in classes if classes.count(name) > 1})
    if repeated:
        raise InputError(
            f'`{key}.metainfo.classes` lists {name_some(repeated)} more than once; list every '
            'class once'
        )
    return classes
