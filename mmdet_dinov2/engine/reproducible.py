"""Makes runs repeatable to the bit."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from mmengine.config import Config

from ..errors import InputError


def check_reproducible(cfg: Config) -> bool:
    """Returns whether a config asks for ``reproducible=True``.

    Raises:
        InputError: If it is neither True nor False, or if the config fixes no seed.
    """
    reproducible = cfg.get('reproducible', False)
    if not isinstance(reproducible, bool):
        raise InputError(f'reproducible must be True or False, but is {reproducible!r}')
    if reproducible and (cfg.get('randomness') or {}).get('seed') is None:
        raise InputError(
            'reproducible=True needs a fixed seed; set one, such as randomness=dict(seed=0)'
        )
    return reproducible


def use_reproducible_algorithms() -> None:
    """Makes PyTorch use algorithms that add in a fixed order, where it has them.

    Has to be called before the first operation on a GPU. Operations without such an algorithm warn.
    Those of this project are exact (sums of ones) or have a different implementation.
    """
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)


@contextlib.contextmanager
def reproducible_algorithms() -> Iterator[None]:
    """Uses these algorithms within the body only."""
    cudnn = torch.backends.cudnn
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.benchmark,
        cudnn.deterministic,
    )
    use_reproducible_algorithms()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.benchmark, cudnn.deterministic = before[2:]
