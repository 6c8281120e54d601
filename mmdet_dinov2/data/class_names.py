"""Classes, and their number, where a config leaves them to the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine import Config

from ..errors import InputError
from .annotation_file import read_annotations
from .dataset_source import annotation_path, iter_dataset_configs, read_source
from .splits import SPLITS

# The value of `metainfo.classes` and `num_classes` that stands for what the data have.
AUTO = 'auto'


def fill_classes(cfg: Config) -> tuple[str, ...] | None:
    """Replaces ``'auto'`` in a config with the classes and their number, in place.

    ``metainfo=dict(classes='auto')`` of a dataset becomes the categories of the training files, in
    their order, or of the next split if there is no training split. ``num_classes`` of the heads
    (:func:`class_heads`) becomes the number of classes of the first dataset.

    Returns:
        The classes that replace ``'auto'``; ``None`` if no dataset has it.

    Raises:
        FileNotFoundError: If an annotation file that has to be read does not exist.
        InputError: If an annotation file cannot be used.
    """
    datasets = [item for split in SPLITS for item in iter_dataset_configs(cfg, split)]
    asking = [config for _, config in datasets if _classes(config) == AUTO]
    classes = None
    if asking:
        split = next(split for split in SPLITS if list(iter_dataset_configs(cfg, split)))
        # Dicts keep the order in which names come first.
        names: dict[str, None] = {}
        for key, config in iter_dataset_configs(cfg, split):
            path = annotation_path(config)
            if not path:
                raise InputError(
                    f"`{key}.metainfo.classes` is '{AUTO}', but `{key}.ann_file`, which has the "
                    'classes, is not set; set it'
                )
            names.update(dict.fromkeys(read_annotations(path).category_names))
        if not names:
            raise InputError(f'the {split} annotations list no categories; list the classes there')
        classes = tuple(names)
        for config in asking:
            config['metainfo']['classes'] = classes
    for key, head in class_heads(cfg):
        if head.get('num_classes') != AUTO:
            continue
        if not datasets:
            raise InputError(
                f"`{key}.num_classes` is '{AUTO}', but the config has no dataset whose "
                'classes could be counted; set a number'
            )
        head['num_classes'] = len(read_source(SPLITS[0], *datasets[0]).classes)
    return classes


def class_heads(cfg: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ``(key, config)`` of every head that tells the classes of a dataset apart.

    These are ``bbox_head`` and ``mask_head`` of the model and of its ``roi_head``, each of them one
    or, in a cascade, several. The ``mask_head`` of a ``PaddingAwareDINO``, which has no ``type``,
    does not tell classes apart.
    """
    model = cfg.get('model') or {}
    for key, owner in (('model', model), ('model.roi_head', model.get('roi_head'))):
        for name in ('bbox_head', 'mask_head'):
            heads = owner.get(name) if isinstance(owner, Mapping) else None
            if (key, name) == ('model', 'mask_head') and 'type' not in (heads or ()):
                continue
            if isinstance(heads, dict):
                yield f'{key}.{name}', heads
            elif isinstance(heads, (list, tuple)):
                yield from ((f'{key}.{name}.{i}', head) for i, head in enumerate(heads))


def _classes(config: Mapping[str, Any]) -> Any:
    metainfo = config.get('metainfo')
    return metainfo.get('classes') if isinstance(metainfo, Mapping) else None
