"""Networks of the same form, each with an input of its own, computed together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def run_stacked(networks: Sequence[nn.Module], inputs: Tensor) -> Tensor:
    """Runs each network on its own input, with one product for the linear layers of all of them.

    Small products cost a GPU and a CPU more to begin than to compute.

    Args:
        networks: N modules of the same form, such as linear layers, or N sequences of such modules.
        inputs: Shape (N, T, C).

    Returns:
        Shape (N, T, C').
    """
    sequences = [net if isinstance(net, nn.Sequential) else (net,) for net in networks]
    for modules in zip(*sequences, strict=True):
        if isinstance(modules[0], nn.Linear):
            weight = torch.stack([module.weight for module in modules])
            bias = torch.stack([module.bias for module in modules])
            # In this order gradients of weights are laid out as the weights are, and not copied.
            inputs = torch.baddbmm(bias[..., None], weight, inputs.mT).mT
        elif any(True for _ in modules[0].parameters()):
            inputs = torch.stack([run(x) for run, x in zip(modules, inputs, strict=True)])
        else:
            inputs = modules[0](inputs)
    return inputs.contiguous()
