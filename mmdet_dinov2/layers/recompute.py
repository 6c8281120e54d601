"""Activation checkpointing: activations that are computed again instead of kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch.utils.checkpoint import checkpoint

Result = TypeVar('Result')


def call(function: Callable[..., Result], *args, recompute: bool, **kwargs) -> Result:
    """Calls a function, keeping its activations for the backward pass or computing them again.

    Between forward and backward pass only the arguments are kept (Chen et al., arXiv:1604.06174).
    Random numbers and autocast are those of the first call, and so are results and gradients.

    Args:
        function: What to call; it must not change anything but by its result.
        *args: Its arguments.
        recompute: Whether to compute again; without effect where no gradients are computed.
        **kwargs: Its keyword arguments.

    Returns:
        What the function returns.
    """
    if recompute and torch.is_grad_enabled():
        return checkpoint(function, *args, use_reentrant=False, **kwargs)
    return function(*args, **kwargs)
