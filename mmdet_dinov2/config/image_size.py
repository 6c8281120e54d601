"""One value for the size of images, where a config names it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from fractions import Fraction
from typing import Any

from mmengine.config import Config

from ..errors import InputError

KEY = 'longest_side'
# Side of a patch, times two windows in a row.
_DIVISOR = 32
# Arguments of transforms that are sizes in pixels; shares of an image are at most 1.
_SIZES = ('scale', 'scales', 'img_scale', 'crop_size')


def set_longest_side(cfg: Config, side: Any) -> None:
    """Changes the longest side of the images of a config, in place.

    All sizes of its pipelines and the windows of its backbone change in proportion.

    Args:
        cfg: Config with ``longest_side``, the longest side of its test images.
        side: The new one in pixels, a multiple of 32.

    Raises:
        InputError: If the config has no ``longest_side``, or the new one is out of range.
    """
    if KEY not in cfg:
        raise InputError(
            f'{KEY}={side} needs a config that has {KEY}, such as dino_dinov2_s_rt; elsewhere the '
            'sizes of images are set in the pipelines'
        )
    if isinstance(side, bool) or not isinstance(side, int) or side <= 0 or side % _DIVISOR:
        raise InputError(
            f'{KEY} must be a multiple of {_DIVISOR} pixels, such as 384, 512 or 640, but is '
            f'{side!r}'
        )
    ratio = Fraction(side, cfg[KEY])
    # Parts of a config may be one object: all is computed before anything changes.
    changed = [(part, key, _scaled(part[key], ratio)) for part, key in _pipelines(cfg)]
    if 'train_scales' in cfg:  # a variable, which is saved
        changed.append((cfg, 'train_scales', _scaled(cfg['train_scales'], ratio, True)))
    backbone = cfg.get('model', {}).get('backbone', {})
    if backbone.get('window_size'):
        window = backbone['window_size'] * ratio
        if window.denominator != 1:
            raise InputError(
                f'{KEY}={side} would make windows of {float(window):g} tokens out of '
                f'model.backbone.window_size={backbone["window_size"]}, which fits '
                f'{KEY}={cfg[KEY]}; take a different side'
            )
        changed.append((backbone, 'window_size', int(window)))
    for part, key, value in changed:
        part[key] = value
    cfg[KEY] = side


def _pipelines(cfg: Config) -> Iterator[tuple[MutableMapping, str]]:
    """Yields what holds a pipeline, and the key."""
    for name in ('train_pipeline', 'test_pipeline'):
        if name in cfg:
            yield cfg, name
    for split in ('train', 'val', 'test'):
        part = cfg.get(f'{split}_dataloader')
        while isinstance(part, Mapping):
            part = part.get('dataset')
            if isinstance(part, Mapping) and 'pipeline' in part:
                yield part, 'pipeline'


def _scaled(node: Any, ratio: Fraction, is_size: bool = False) -> Any:
    if isinstance(node, Mapping):
        scaled = {key: _scaled(value, ratio, key in _SIZES) for key, value in node.items()}
        return type(node)(scaled)
    if isinstance(node, (list, tuple)):
        return type(node)(_scaled(value, ratio, is_size) for value in node)
    if is_size and isinstance(node, (int, float)) and node > 1:
        return round(node * ratio)
    return node
