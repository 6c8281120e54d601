"""Weights that a forward pass under autocast needs in low precision, converted together.

Autocast converts each weight where it is first used, and each gradient back: two small kernels for
every weight and bias. A GPU that is faster than Python waits for them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor

# Modules all of whose parameters autocast converts.
_CONVERTED = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.MultiheadAttention)


@contextlib.contextmanager
def converted_together(modules: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """Converts the trained weights of modules for the body, in one operation.

    Results and gradients are those of autocast, to the bit. Outside of autocast and without
    gradients nothing happens. The parameters stay what and where they are: an attribute of the same
    name hides each of them, and is removed at the end. A forward pass that is computed again later
    finds the parameters and converts them one by one.

    Args:
        modules: Modules that run under autocast; of those, linear layers, convolutions and
            PyTorch's attention are converted. Their children are not looked for.
        device: Device of the modules.
    """
    places: list[tuple[nn.Module, str, nn.Parameter]] = []
    if torch.is_autocast_enabled(device.type) and torch.is_grad_enabled():
        places = [
            (module, name, parameter)
            for module in modules
            if isinstance(module, _CONVERTED)
            for name, parameter in module.named_parameters(recurse=False)
            if parameter.requires_grad
            and parameter.dtype == torch.float32
            and not isinstance(parameter, DTensor)
        ]
    if not places:
        yield
        return
    dtype = torch.get_autocast_dtype(device.type)
    # A parameter that several modules share is converted once.
    parameters = list({id(parameter): parameter for *_, parameter in places}.values())
    converted = dict(zip(map(id, parameters), _Convert.apply(dtype, *parameters), strict=True))
    for module, name, parameter in places:
        module.__dict__[name] = converted[id(parameter)]
    try:
        yield
    finally:
        for module, name, _ in places:
            del module.__dict__[name]


class _Convert(torch.autograd.Function):
    @staticmethod
    def forward(ctx, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.dtypes = [weight.dtype for weight in weights]
        ctx.set_materialize_grads(False)  # a weight without a use gets no gradient
        return tuple(_copies(weights, [dtype] * len(weights)))

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        used = [number for number, grad in enumerate(grads) if grad is not None]
        copies = _copies([grads[n] for n in used], [ctx.dtypes[n] for n in used])
        results = dict(zip(used, copies, strict=True))
        return None, *(results.get(number) for number in range(len(grads)))


def _copies(tensors: Iterable[Tensor], dtypes: Iterable[torch.dtype]) -> list[Tensor]:
    copies = [torch.empty_like(t, dtype=dtype) for t, dtype in zip(tensors, dtypes, strict=True)]
    if copies:
        torch._foreach_copy_(copies, list(tensors))
    return copies
