"""Compares the installed packages with the tested set."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from .commands import PIP, REQUIREMENTS, install, install_all
from .problem import Problem

# Packages that share their files with a fork, and the fork that is used here.
_ORIGINALS = dict(
    mmengine='onedl-mmengine',
    mmcv='onedl-mmcv',
    mmdet='onedl-mmdetection',
    mmpretrain='onedl-mmpretrain',
)
_ORIGINALS['mmcv-full'] = _ORIGINALS['mmcv-lite'] = 'onedl-mmcv'
_NEEDED = ('runtime.txt', 'mminstall.txt')
NOT_INSTALLED = 'not installed'
# Bounds of packages that are not required.
_TRAPS = {
    'transformers': (
        '<5',
        '`import mmpretrain.models` fails with version 5, and thus mmdet.models',
    ),
    'setuptools': ('<81', 'later versions lack pkg_resources, which mmengine and mmcv import'),
}


def check_packages() -> Iterator[Problem]:
    """Finds packages that are missing, untested, or overwrite each other."""
    installed = installed_versions()
    yield from _check_originals(installed)
    wrong = set()
    missing = []
    for name, bounds in needed_packages().items():
        version = installed.get(name)
        if version is None:
            missing.append(name)
        elif not satisfies(version, bounds):
            wrong.add(name)
            yield Problem(
                'error', f'{name} {version} is installed, but {bounds} is needed', install_all()
            )
    if missing:
        whole = any(name.startswith(('onedl-', 'torch')) for name in missing)
        remedy = install_all() if whole else install(*missing)
        yield Problem('error', f'{NOT_INSTALLED}: {", ".join(missing)}', remedy)
    for name, (bounds, reason) in _TRAPS.items():
        if name in installed and not satisfies(installed[name], bounds):
            wrong.add(name)
            yield Problem('error', f'{name} {installed[name]}: {reason}', install(name + bounds))
    tested = locked_versions()
    other = {
        name: (version, tested[name])
        for name, version in installed.items()
        if name in tested and name not in wrong and _plain(version) not in tested[name]
    }
    if other:
        shown = ', '.join(
            f'{name} {version} (tested: {" or ".join(sorted(known))})'
            for name, (version, known) in sorted(other.items())
        )
        yield Problem('warning', f'untested versions: {shown}', install_all())


def _check_originals(installed: Mapping[str, str]) -> Iterator[Problem]:
    for original, fork in _ORIGINALS.items():
        if original not in installed:
            continue
        both = fork in installed
        what = f'{original} {installed[original]} is installed ' + (
            f'beside {fork}: they share files, and the one installed last has overwritten the other'
            if both
            else f'instead of {fork}, but does not work with current torch and numpy'
        )
        again = f'{PIP} --no-cache-dir --no-deps --force-reinstall {fork}'
        pip = PIP.replace(' install', '')
        yield Problem('error', what, f'{pip} uninstall -y {original} && {again}')


def installed_versions() -> dict[str, str]:
    """Returns the versions of the installed packages by their normalised names."""
    versions: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata['Name']
        if name:  # the first one on the path is imported
            versions.setdefault(_normalise(name), distribution.version)
    return versions


def needed_packages() -> dict[str, str]:
    """Returns the version bounds of the packages that training needs, by name."""
    return {
        _normalise(name): bounds
        for file in _NEEDED
        for name, bounds in _requirements(REQUIREMENTS / file)
    }


def locked_versions() -> dict[str, set[str]]:
    """Returns the tested versions by name; old interpreters have their own for some packages."""
    versions: dict[str, set[str]] = {}
    for name, bounds in _requirements(REQUIREMENTS / 'lock.txt'):
        versions.setdefault(_normalise(name), set()).add(bounds.removeprefix('=='))
    return versions


def _requirements(path: Path) -> Iterator[tuple[str, str]]:
    """Yields names and bounds of a requirements file; nothing if it does not exist."""
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        match = re.match(r'([\w.-]+)\s*([^;#]*)', line.split('#')[0].strip())
        if match:
            yield match[1], match[2].strip()


def satisfies(version: str, bounds: str) -> bool:
    """Returns whether a version is in bounds such as ``>=2.3,<2.4``; only numbers count."""
    compare = {
        '==': lambda a, b: a == b,
        '!=': lambda a, b: a != b,
        '>=': lambda a, b: a >= b,
        '<=': lambda a, b: a <= b,
        '<': lambda a, b: a < b,
        '>': lambda a, b: a > b,
    }
    for bound in filter(None, bounds.split(',')):
        operator, wanted = re.match(r'\s*(==|!=|>=|<=|<|>)\s*(\S+)', bound).groups()
        found, limit = _numbers(version), _numbers(wanted)
        length = max(len(found), len(limit))
        pad = [n + (0,) * (length - len(n)) for n in (found, limit)]
        if not compare[operator](*pad):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r'\d+', re.split(r'[a-z+]', version)[0]))


def _plain(version: str) -> str:
    """Returns a version without the part that says for which CUDA the package was built."""
    return version.split('+')[0]


def _normalise(name: str) -> str:
    return re.sub(r'[-_.]+', '-', name).lower()
