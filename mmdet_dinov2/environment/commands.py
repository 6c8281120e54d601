"""Commands that repair an environment, and the place of the tested set of packages."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# An installed package has them where OpenMMLab's packages keep such files.
_INSTALLED = ROOT / 'mmdet_dinov2' / '.mim' / 'requirements'
REQUIREMENTS = _INSTALLED if _INSTALLED.is_dir() else ROOT / 'requirements'
PIP = f'{sys.executable} -m pip install'


def install(*packages: str) -> str:
    """Returns the command that installs packages in their tested versions."""
    lock = REQUIREMENTS / 'lock.txt'
    constraint = f' -c {lock}' if lock.is_file() else ''
    return f'{PIP}{constraint} ' + ' '.join(
        f"'{p}'" if set(p) & set('<>=') else p for p in packages
    )


def install_all() -> str:
    """Returns the command that installs the whole tested set."""
    if (ROOT / 'Makefile').is_file():
        return f'make -C {ROOT} env'
    files = ' '.join(f'-r {REQUIREMENTS / name}' for name in ('runtime.txt', 'mminstall.txt'))
    return f'{PIP} -c {REQUIREMENTS / "lock.txt"} {files}'


def reinstall_mmcv() -> str:
    """Returns the command that installs mmcv without compiled operators."""
    # Built in isolation, mmcv does not see torch and compiles nothing; wheels in caches may be
    # compiled.
    return (
        f'{PIP} --no-cache-dir --no-deps --force-reinstall onedl-mmcv '
        '(without compiled operators; make env MMCV_OPS=cpu or cuda compiles them)'
    )


def apt_install(*packages: str) -> str:
    """Returns the command that installs packages of Debian and Ubuntu."""
    sudo = '' if hasattr(os, 'geteuid') and os.geteuid() == 0 else 'sudo '
    return f'{sudo}apt-get update && {sudo}apt-get install -y {" ".join(packages)}'
