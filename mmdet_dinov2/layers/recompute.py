"""Activation checkpointing: activations that are computed again instead of kept."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recomputable(forward: Callable) -> Callable:
    """Lets a module keep its activations for the backward pass or compute them again.

    The module says which in its attribute ``with_cp``. If it computes them again, only the
    arguments are kept between forward and backward pass (Chen et al., arXiv:1604.06174). Random
    numbers and autocast are those of the first call, and so are results and gradients. Without
    gradients the attribute has no effect.

    Args:
        forward: A method that changes nothing but its result.

    Returns:
        The method with a choice.
    """

    @functools.wraps(forward)
    def run(self: nn.Module, *args, **kwargs):
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(forward, self, *args, use_reentrant=False, **kwargs)
        return forward(self, *args, **kwargs)

    return run
