"""Optimizers that mmengine registers only where their packages are installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.registry import OPTIMIZERS

from ...config.names import did_you_mean
from ...errors import InputError

# By the first letters of the type; see `mmengine/optim/optimizer/builder.py`.
_PACKAGES = {
    'Lion': 'lion-pytorch',
    'DAdapt': 'dadaptation',
    'Sophia': 'Sophia-Optimizer',
    'bnb_': 'bitsandbytes',
    'Adafactor': 'transformers',
}


def check_optimizer_type(optimizer: Mapping[str, Any]) -> None:
    """Checks that the optimizer that a config names exists; mmengine fails without its name.

    Args:
        optimizer: Config of an optimizer.

    Raises:
        InputError: If it does not; the message names the package that has it.
    """
    name = optimizer.get('type')
    if not isinstance(name, str) or OPTIMIZERS.get(name) is not None:
        return
    package = next((p for start, p in _PACKAGES.items() if name.startswith(start)), None)
    if package is None:
        remedy = did_you_mean(name, OPTIMIZERS.module_dict) or '; use one of torch.optim'
    else:
        remedy = f'; it comes with the package {package}: pip install {package}'
    raise InputError(f'optim_wrapper.optimizer.type is {name!r}, which does not exist here{remedy}')
