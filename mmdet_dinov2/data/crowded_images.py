"""Limits of detections per image that follow the data."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from mmengine import Config

from ..errors import InputError
from ..large_image import MAX_PER_IMG
from .annotation_file import read_annotations
from .dataset_source import annotation_path, is_remote, iter_dataset_configs

# Where the limit of an image is, and its default. With tiles, that of test_cfg is that of a tile.
_SECTIONS = dict(test_cfg=None, tile=MAX_PER_IMG)
_KEY = 'max_per_img'


def raise_detection_limit(cfg: Config, given: Collection[str] = ()) -> str | None:
    """Lets a detector find as many objects in an image as one of validation and test has, in place.

    Args:
        cfg: A config. A limit of its detector that is too low is raised.
        given: Dotted names of settings that are the user's choice, and stay.

    Returns:
        What was done, as a sentence; None if nothing was.
    """
    model = cfg.get('model') or {}
    section = 'tile' if model.get('tile') is not None else 'test_cfg'
    settings = model.get(section)
    limit = settings.get(_KEY, _SECTIONS[section]) if isinstance(settings, Mapping) else None
    name = f'model.{section}.{_KEY}'
    if not isinstance(limit, int) or name in given:
        return None
    counts = {
        path: _most_boxes(path)
        for split in ('val', 'test')
        for _, config in iter_dataset_configs(cfg, split)
        if (path := annotation_path(config)) and not is_remote(path, config)
    }
    fullest = max(counts, key=counts.__getitem__, default=None)
    if fullest is None or counts[fullest] <= limit:
        return None
    settings[_KEY] = counts[fullest]
    return (
        f"an image of '{fullest}' has {counts[fullest]} boxes, so {name}={limit} became "
        f'{counts[fullest]}'
    )


def _most_boxes(path: str) -> int:
    """Returns the largest number of boxes of an image; 0 if the file cannot be read."""
    try:
        columns = read_annotations(path)
    except (InputError, OSError):
        return 0  # the check of the dataset says why
    objects = columns.image_index[~columns.crowd & (columns.image_index >= 0)]
    return int(np.bincount(objects).max(initial=0))
