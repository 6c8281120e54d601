"""Commands that repair an environment, and the place of the tested set of packages."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# requirements/ exists in a checkout only, not in an installed package.
ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / 'requirements'
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
    return f'{PIP} mmdet_dinov2 onedl-mmengine onedl-mmcv onedl-mmdetection onedl-mmpretrain'


def build_mmcv() -> str:
    """Returns the command that compiles mmcv's operators again, for the installed torch."""
    return (
        f'{PIP} --no-build-isolation --no-cache-dir --no-deps --force-reinstall onedl-mmcv '
        '(needs g++, ninja, psutil and setuptools below 81)'
    )


def apt_install(*packages: str) -> str:
    """Returns the command that installs packages of Debian and Ubuntu."""
    sudo = '' if hasattr(os, 'geteuid') and os.geteuid() == 0 else 'sudo '
    return f'{sudo}apt-get update && {sudo}apt-get install -y {" ".join(packages)}'
