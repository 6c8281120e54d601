"""Operators of mmcv without a compiler, served by torchvision and PyTorch.

mmcv, built where torch is not visible, is pure Python: only the compiled module ``mmcv._ext`` is
missing, and `import mmcv.ops`, and with it mmdet, fails. Importing this module makes Python find a
stand-in for it. Operators that torchvision has with the same meaning work; every other one raises
an error with its name and the command that compiles it. A compiled ``mmcv._ext`` is always found
first.

It stands beside the package, needs the standard library alone until mmcv asks for its operators,
and is imported by a ``.pth`` file of the environment: mmcv has to find the stand-in
also where mmdet is imported before this package, as mmdet's own tools do.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

NAME = 'mmcv._ext'
COMPILE_COMMAND = 'make env MMCV_OPS=cpu (or cuda)'


class StandInFinder(MetaPathFinder, Loader):
    """Finds ``mmcv._ext`` where no compiled one is."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(NAME, self, origin=__file__) if fullname == NAME else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        from . import operators  # needs torch, which a start of Python must not wait for

        for name, value in vars(operators).items():
            owned = getattr(value, '__module__', None) == operators.__name__
            if owned and not name.startswith('_'):
                setattr(module, name, value)


class StandIn(ModuleType):
    """A module in which every name that it does not have is an operator that raises."""

    is_stand_in = True

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(name)
        return lambda *args, **kwargs: missing_operator(name)


def missing_operator(name: str) -> NoReturn:
    """Raises the error about an operator that needs a compiler."""
    raise NotImplementedError(
        f"mmcv's operator {name!r} is not compiled in this environment; compile the operators of "
        f'mmcv with: {COMPILE_COMMAND}'
    )


def write_pth(folder: str | Path | None = None) -> None:
    """Lets every Python of an environment import this module when it starts.

    Args:
        folder: Folder whose ``.pth`` files Python reads; by default that of this environment.
    """
    path = Path(folder or sysconfig.get_path('purelib')) / f'{__name__}.pth'
    # Nothing happens where the module is gone: an error would be printed at each start.
    path.write_text(
        f"import importlib.util; importlib.util.find_spec('{__name__}') and "
        f"__import__('{__name__}')\n"
    )


def install() -> None:
    """Lets Python find the stand-in after all other places were searched."""
    if not any(isinstance(finder, StandInFinder) for finder in sys.meta_path):
        sys.meta_path.append(StandInFinder())


install()
