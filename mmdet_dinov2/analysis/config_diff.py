"""What a run changed: its resolved config against the project's config it is nearest to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..config.plain import flatten

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
# Where and how a run is started, not what it is.
_NOT_SETTINGS = ('work_dir', 'launcher', 'resume', 'local_rank', 'visualizer', 'vis_backends')
# Filled in from the data set where the config leaves it open.
_FILLED_IN = ('val_evaluator.ann_file', 'test_evaluator.ann_file')
_ABSENT = '(not set)'


def diff(base: Mapping[str, Any], changed: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Key, value of the base and value of the config of every setting that differs."""
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
    """Settings by dotted key; tuples are the lists that a saved config makes of some."""
    return {
        key: str(list(value) if isinstance(value, tuple) else value) for key, value in flatten(cfg)
    }


def nearest_config(
    cfg: Mapping[str, Any], folder: Path = CONFIGS
) -> tuple[str, list[tuple[str, str, str]]] | None:
    """The config of the project with the fewest differences to a resolved one.

    Args:
        cfg: The resolved config.
        folder: Configs to compare with.

    Returns:
        Name of that config and the differences; None without configs, as in an installation.
    """
    found = [
        (path.stem, diff(Config.fromfile(path).to_dict(), cfg))
        for path in sorted(folder.glob('*.py'))
    ]
    return min(found, key=lambda pair: len(pair[1])) if found else None
