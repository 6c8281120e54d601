"""The config files of this project, which a name without a folder finds from anywhere."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import MissingFileError
from .names import did_you_mean

_PACKAGE = Path(__file__).resolve().parents[1]


def config_folder() -> Path:
    """Returns the folder of this project's configs.

    It is ``configs/`` of a checkout, or ``.mim/configs/`` in an installed package, by OpenMMLab's
    convention.
    """
    installed = _PACKAGE / '.mim' / 'configs'
    return installed if installed.is_dir() else _PACKAGE.parent / 'configs'


def list_configs() -> list[str]:
    """Returns the names of this project's configs, without the suffix, sorted.

    Those in a folder have it in front of the name, with a slash.
    """
    folder = config_folder()
    paths = [path.relative_to(folder) for path in folder.rglob('*.py')]
    return sorted(str(p.with_suffix('')) for p in paths if not p.parts[0].startswith('_'))


def find_config(name: str | os.PathLike) -> str:
    """Finds a config file.

    Args:
        name: Path of a file, or name of a config of this project, with or without ``.py``.

    Returns:
        The path of the file. A file of the user comes before a config of this project.

    Raises:
        MissingFileError: If there is none.
    """
    name = os.fspath(name)
    if Path(name).is_file():
        return name
    wanted = name.removesuffix('.py')
    known = list_configs()
    if wanted in known:
        return str(config_folder() / f'{wanted}.py')
    raise MissingFileError(
        f'config {name} does not exist, neither as a file nor among those of mmdet_dinov2 '
        f'(`mmdet_dinov2 configs` lists them){did_you_mean(wanted, known)}'
    )
