"""What a run changed: its resolved config against the project's config it is nearest to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
# Where and how a run is started, not what it is.
_NOT_SETTINGS = ('work_dir', 'launcher', 'resume', 'local_rank')
_ABSENT = '(not set)'


def flatten(value: Any, prefix: str = '') -> dict[str, Any]:
    """Settings by dotted key; lists of dicts are numbered, other lists are values."""
    if isinstance(value, Mapping) and value:
        items = value.items()
    elif isinstance(value, (list, tuple)) and any(isinstance(v, Mapping) for v in value):
        items = enumerate(value)
    else:
        return {prefix: list(value) if isinstance(value, tuple) else value}
    flat: dict[str, Any] = {}
    for key, inner in items:
        flat |= flatten(inner, f'{prefix}.{key}' if prefix else str(key))
    return flat


def diff(base: Mapping[str, Any], changed: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Key, value of the base and value of the config of every setting that differs."""
    first, second = flatten(base), flatten(changed)
    rows = []
    for key in sorted(first.keys() | second.keys()):
        if key.split('.')[0] in _NOT_SETTINGS:
            continue
        pair = [str(flat[key]) if key in flat else _ABSENT for flat in (first, second)]
        if pair[0] != pair[1]:
            rows.append((key, *pair))
    return rows


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
