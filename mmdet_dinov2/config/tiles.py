"""Detection in tiles: the test pipeline that the setting ``tile`` of a detector needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config

from ..errors import InputError
from .own_types import own_type

# What test pipelines may hold: tiles go through none of these but the first and the last.
_FIRST, _LAST = 'LoadImageFromFile', 'PackDetInputs'
_TILED = {_FIRST: 'TiledLoadImageFromFile', _LAST: 'PackTiledInputs'}
_BETWEEN = ('Resize', 'FixScaleResize', 'LoadAnnotations')
_DETECTOR = 'PaddingAwareDINO'


def use_tiles(cfg: Config, size: int | None = None) -> None:
    """Lets a config predict in tiles, in place, if its detector has the setting ``tile``.

    Args:
        cfg: The config; its pipelines of validation and test are replaced by those of
            :func:`tiled_pipeline`.
        size: Size of the tiles; gives the detector the setting, or changes it.

    Raises:
        InputError: If the detector does not predict in tiles, or a pipeline cannot.
    """
    if size is not None:
        cfg.model = tiled_model(cfg.model, dict(size=size))
    tile = tile_of(cfg.get('model'))
    if tile is None:
        return
    for split in ('val', 'test'):
        for dataset in innermost((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            if dataset.get('pipeline'):
                dataset['pipeline'] = tiled_pipeline(dataset['pipeline'], tile.get('size'))


def innermost(dataset: Any) -> Iterator[Any]:
    """Yields the configs of the datasets that load samples."""
    if isinstance(dataset, (list, tuple)):
        for part in dataset:
            yield from innermost(part)
    elif isinstance(dataset, Mapping):
        inner = dataset.get('datasets') or dataset.get('dataset')
        if isinstance(inner, (Mapping, list, tuple)):
            yield from innermost(inner)
        else:
            yield dataset


def tiled_model(model: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config of a detector that predicts in tiles.

    Args:
        model: Config of the detector.
        settings: Attributes of a :class:`mmdet_dinov2.models.tiling.Tiling`; others stay those of
            the detector.

    Raises:
        InputError: If the detector does not predict in tiles.
    """
    name = str(model.get('type')).rpartition('.')[2]
    if name != _DETECTOR:
        raise InputError(
            f'tiles need a {_DETECTOR}, whose predictions do not depend on the batch, but the '
            f'detector is a {name}; leave --tile out, or cut the images with sahi'
        )
    return type(model)({**model, 'tile': {**(model.get('tile') or {}), **settings}})


def tiled_pipeline(
    pipeline: Sequence[Mapping[str, Any]], size: int | None = None
) -> list[dict[str, Any]]:
    """Makes a pipeline that passes on the image of which tiles are read.

    Args:
        pipeline: Configs of transforms: one that loads an image file, ``Resize`` and
            ``LoadAnnotations`` if wanted, ``PackDetInputs``. The result is that for itself.
        size: Size of the tiles. Larger images are reduced to it where the pipeline has no
            ``Resize``.

    Raises:
        InputError: If it has others, which tiles would not go through.
    """
    names = [str(own_type(step['type'])).rpartition('.')[2] for step in pipeline]
    known = {name: key for key, name in _TILED.items()} | {'CheckedLoadImageFromFile': _FIRST}
    kinds = [known.get(name, name) for name in names]
    if not (kinds[:1] == [_FIRST] and kinds[-1] == _LAST and set(kinds[1:-1]) <= set(_BETWEEN)):
        raise InputError(
            f'tiles need a test pipeline of {_FIRST}, {", ".join(_BETWEEN)} and {_LAST}, but it is '
            f'{names}; leave the others out, or the tiles (model.tile, --tile)'
        )
    first, *between, last = (dict(step) for step in pipeline)
    first['type'], last['type'] = _TILED[_FIRST], _TILED[_LAST]
    if not any('Resize' in kind for kind in kinds):
        first['reduced_side'] = size
    return [first, *between, last]


def tile_of(model: Any) -> Mapping[str, Any] | None:
    """Returns the setting ``tile`` of the config of a detector; None if it has none."""
    return model.get('tile') if isinstance(model, Mapping) else None


def trains_on_tiles(cfg: Mapping[str, Any]) -> bool:
    """Returns whether the training pipeline of a config cuts tiles out of images."""
    return any(name == 'RandomTile' for name in _types(cfg.get('train_dataloader') or {}))


def _types(node: Any) -> Iterator[str]:
    """Yields the names of all types in a part of a config, without their modules."""
    if isinstance(node, Mapping):
        if isinstance(node.get('type'), str):
            yield node['type'].rpartition('.')[2]
        node = node.values()
    elif not isinstance(node, (list, tuple)):
        return
    for value in node:
        yield from _types(value)
