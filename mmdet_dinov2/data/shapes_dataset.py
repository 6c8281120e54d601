"""The sample dataset of a config, drawn before anything reads it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mmdet.registry import DATASETS

from ..drawing.palette import class_colours
from ..errors import InputError
from .coco_dataset import ClassNameCocoDataset
from .dataset_source import annotation_path, iter_dataset_configs
from .shapes import generate_shapes, shapes_annotations
from .shapes_drawing import CLASSES

_GENERATE_KEYS = ('num_train', 'num_val', 'seed', 'scene')


def make_sample_data(cfg: Mapping[str, Any]) -> None:
    """Draws the sample dataset of a config, if one of its datasets reads it and it does not exist.

    Args:
        cfg: A config. Its ``sample_data`` has the ``root`` and the other arguments of
            :func:`~mmdet_dinov2.data.shapes.generate_shapes`; without it, nothing is done.

    Raises:
        InputError: If an argument is unknown or out of range, or if ``root`` is not a local folder
            or holds anything but this dataset.
    """
    sample = cfg.get('sample_data')
    if not sample:
        return
    if not isinstance(sample, Mapping) or 'root' not in sample:
        raise InputError(f'`sample_data` must be a dict with a root, but is {sample!r}')
    root = os.path.abspath(sample['root'])
    drawn = {os.path.abspath(path) for path in shapes_annotations(sample['root'])}
    for split in ('train', 'val', 'test'):
        for _, config in iter_dataset_configs(cfg, split):
            path = os.path.abspath(annotation_path(config) or config.get('data_root') or '')
            # The pictures without the annotations: a folder in that of the dataset.
            if path in drawn or (not annotation_path(config) and os.path.dirname(path) == root):
                ensure_shapes(sample['root'], {k: v for k, v in sample.items() if k != 'root'})
                return


@DATASETS.register_module()
class ShapesDataset(ClassNameCocoDataset):
    """Dataset of generated shapes, created at ``data_root`` on first use.

    Configs of earlier versions have it; see :func:`make_sample_data`.

    Use ``ann_file='annotations/train.json'`` with ``data_prefix=dict(img='train/')``, and likewise
    for ``val``.

    Args:
        *args: As for :class:`ClassNameCocoDataset`.
        generate: Arguments of :func:`~mmdet_dinov2.data.shapes.generate_shapes` other than
            ``root``. Datasets that share a ``data_root`` need the same arguments.
        **kwargs: As for :class:`ClassNameCocoDataset`.

    Raises:
        InputError: If ``generate`` is not a dict, has unknown keys or values out of range, or if
            ``data_root`` is not a local folder or holds anything but this dataset.
    """

    METAINFO = dict(classes=CLASSES, palette=class_colours(len(CLASSES)))

    def __init__(
        self, *args: Any, generate: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        _check_generate_keys(generate)
        self.generate = dict(generate or {})
        super().__init__(*args, **kwargs)

    def full_init(self) -> None:
        """Generates the dataset if it does not exist yet, then reads it."""
        ensure_shapes(self.data_root, self.generate)
        super().full_init()


def ensure_shapes(data_root: str | None, generate: Mapping[str, Any] | None) -> None:
    """Generates the dataset that a :class:`ShapesDataset` with these arguments reads.

    Raises:
        InputError: See :class:`ShapesDataset`.
    """
    _check_generate_keys(generate)
    if not data_root or '://' in data_root:
        raise InputError(
            f'the shapes dataset needs a local folder to write to, but data_root is {data_root!r}; '
            "set it to a folder such as 'data/shapes'"
        )
    generate_shapes(data_root, **(generate or {}))


def _check_generate_keys(generate: Mapping[str, Any] | None) -> None:
    if generate is not None and not isinstance(generate, Mapping):
        raise InputError(f'`generate` of ShapesDataset must be a dict, but is {generate!r}')
    unknown = sorted(set(generate or {}) - set(_GENERATE_KEYS))
    if unknown:
        raise InputError(
            f'the shapes dataset has the unknown keys {unknown}; it takes '
            f'{", ".join(_GENERATE_KEYS)}'
        )
