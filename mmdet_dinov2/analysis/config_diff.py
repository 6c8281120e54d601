"""Differences between the resolved config of a run and the nearest config of the project."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from ..config.files import config_folder, list_configs
from ..config.plain import flatten

# These say where and how a run was started, not what it trained.
_NOT_SETTINGS = ('work_dir', 'launcher', 'resume', 'local_rank', 'visualizer', 'vis_backends')
# These are filled in from the dataset where the config leaves them open.
_FILLED_IN = ('val_evaluator.ann_file', 'test_evaluator.ann_file')
_ABSENT = '(not set)'


def diff(base: Mapping[str, Any], changed: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns the key, the base's value and the changed value of every setting that differs."""
    first, second = _as_text(base), _as_text(changed)
    rows = []
    for key in sorted(first.keys() | second.keys()):
        if key.split('.')[0] in _NOT_SETTINGS:
            continue
        pair = [flat.get(key, _ABSENT) for flat in (first, second)]
        if pair[0] != pair[1] and not (key in _FILLED_IN and _ABSENT in pair):
            rows.append((key, *pair))
    return rows


def _as_text(cfg: Mapping[str, Any]) -> dict[str, str]:
    """Returns settings by dotted key, tuples as lists: a saved config turns some into lists."""
    return {
        key: str(list(value) if isinstance(value, tuple) else value) for key, value in flatten(cfg)
    }


def nearest_config(cfg: Mapping[str, Any]) -> tuple[str, list[tuple[str, str, str]]] | None:
    """Finds the config of the project with the fewest differences from a resolved one.

    Args:
        cfg: The resolved config.

    Returns:
        The name of that config and the differences; None if there are no configs.
    """
    found = [
        (name, diff(Config.fromfile(config_folder() / f'{name}.py').to_dict(), cfg))
        for name in list_configs()
    ]
    return min(found, key=lambda pair: len(pair[1])) if found else None
