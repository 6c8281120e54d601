"""Compilation of what works on each token alone.

Image sizes change from batch to batch, and with them the lengths of all segments. A compiled
attention would be compiled anew for every size; norms, linear layers, activations, LayerScales and
residuals see nothing but the number of tokens, which ``torch.compile`` can leave open. They are
what a compiler can fuse; attention and matrix products are library calls in any case.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import InputError

# Replaced in tests, where the time to compile counts more than the time to run.
_BACKEND = 'inductor'


class TokenwiseModule(nn.Module):
    """A module with methods that ``tokenwise`` may compile.

    Attributes:
        compiled: Whether these methods run compiled; see :func:`compile_tokenwise`.
    """

    compiled = False


def compile_tokenwise(model: nn.Module) -> int:
    """Lets all token-wise methods in a model run compiled from the next call on.

    Names of parameters, copies and wrappers of the model are not affected: the switch is an
    attribute of its modules.

    Args:
        model: The model.

    Returns:
        The number of modules that have such methods.
    """
    modules = [module for module in model.modules() if isinstance(module, TokenwiseModule)]
    for module in modules:
        module.compiled = True
    return len(modules)


def tokenwise(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Marks a method of a ``TokenwiseModule`` that may run compiled.

    All its arguments are token streams of shape (T, ...), and so is its result; each token is
    computed from the same token of the arguments. Modules of the same kind share the compiled code,
    which is kept for each situation (data type, with or without gradients, autocast) but not for
    each number of tokens.

    Raises:
        InputError: If the method cannot be compiled on this machine.
    """

    @functools.cache  # importing the compiler takes seconds, which only those wait who use it
    def compiled(backend: str) -> Callable[..., Tensor]:
        return torch.compile(method, dynamic=True, backend=backend)

    @functools.wraps(method)
    def run(self: TokenwiseModule, *streams: Tensor) -> Tensor:
        if not self.compiled or torch.compiler.is_compiling() or not len(streams[0]):
            return method(self, *streams)
        function = compiled(_BACKEND)
        from torch._dynamo.exc import BackendCompilerFailed  # imported with the compiler

        try:
            return function(self, *(_standalone(stream) for stream in streams))
        except BackendCompilerFailed as error:
            reason = str(error.inner_exception).strip().splitlines()[0]
            raise InputError(
                f'compiled=True does not work on this machine ({reason}): torch.compile needs a '
                'C++ compiler such as g++ on a CPU, Triton and a C compiler such as gcc on a GPU; '
                'install them or set compiled=False'
            ) from error

    return run


def _standalone(stream: Tensor) -> Tensor:
    """The same memory as a tensor that is no view.

    The compiler follows a view to its base, and so would compile anew when the shapes of the two
    relate differently, as they do with one image, images of one size and images of several sizes.
    """
    stream = stream.contiguous()
    return torch.ops.aten._unsafe_view(stream, stream.shape) if stream._is_view() else stream
