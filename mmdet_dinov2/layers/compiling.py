"""Compilation of what works on each token alone.

Image sizes change from batch to batch, and with them the lengths of all segments. A compiled
attention would be compiled again for every size. Norms, linear layers, activations, LayerScales and
residuals depend on nothing but the number of tokens, which ``torch.compile`` can leave open. They
are what a compiler can fuse; attention and matrix products are library calls in any case.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import InputError

Streams = TypeVar('Streams', Tensor, tuple[Tensor, ...])
# Tests replace it: there the time to compile counts more than the time to run.
_BACKEND: str | Callable = 'inductor'
_AROUND: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext


@contextlib.contextmanager
def compiled_by(
    backend: str | Callable, around: Callable[[], contextlib.AbstractContextManager]
) -> Iterator[None]:
    """Compiles in another way in the body.

    Args:
        backend: A backend of ``torch.compile``.
        around: Returns a context for each call of compiled code.
    """
    global _BACKEND, _AROUND
    before = _BACKEND, _AROUND
    _BACKEND, _AROUND = backend, around
    try:
        yield
    finally:
        _BACKEND, _AROUND = before


class TokenwiseModule(nn.Module):
    """A module with methods that ``tokenwise`` may compile.

    Args:
        *args: Passed on to the next class.
        compiled: Whether these methods run compiled.
        **kwargs: Passed on to the next class.
    """

    def __init__(self, *args, compiled: bool = False, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.compiled = compiled


def tokenwise(method: Callable[..., Streams]) -> Callable[..., Streams]:
    """Marks a method of a ``TokenwiseModule`` that may run compiled.

    Its first argument and its results are token streams of shape (T, ...); each token is computed
    from the same token of the arguments. Further arguments are token streams, tensors that have the
    same shape in each call, or modules. Modules of the same kind share the compiled code. There is
    one version for each situation (data type, with or without gradients, autocast), but not for
    each number of tokens. Names of parameters, copies and wrappers of the module are not affected.

    Args:
        method: The method.

    Returns:
        The method, which runs compiled where the module asks for it.

    Raises:
        InputError: If the method cannot be compiled on this machine.
    """

    # Importing the compiler takes seconds. Only those who use it wait for it.
    @functools.cache
    def compiled(backend: str | Callable) -> Callable[..., Streams]:
        return torch.compile(method, dynamic=True, backend=_with_exact_gradients(backend))

    @functools.wraps(method)
    def run(self: TokenwiseModule, *args: Tensor | nn.Module) -> Streams:
        # The compiler makes a further version for a single token, and none for no tokens.
        if not self.compiled or torch.compiler.is_compiling() or len(args[0]) < 2:
            return method(self, *args)
        function = compiled(_BACKEND)
        # Private: `torch.compiler` does not export this error.
        from torch._dynamo.exc import BackendCompilerFailed

        try:
            with _AROUND():
                return function(self, *map(_standalone, args))
        except BackendCompilerFailed as error:
            reason = str(error.inner_exception).strip().splitlines()[0]
            raise InputError(
                f'compiled=True does not work on this machine ({reason}): torch.compile needs a '
                'C++ compiler such as g++ on a CPU, Triton and a C compiler such as gcc on a GPU; '
                'install them or set compiled=False'
            ) from error

    return run


def _with_exact_gradients(backend: str | Callable) -> Callable:
    """Returns a backend whose gradients are in fp32 where the forward pass leaves autocast.

    As without a compiler. By itself, the compiler traces all of the backward pass under the
    autocast of the forward pass.
    """
    # Private: `torch.compiler` exports neither.
    from torch._dynamo import lookup_backend
    from torch._functorch import config

    def compile_graph(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Callable:
        with config.patch(backward_pass_autocast='off'):
            return lookup_backend(backend)(graph, inputs)

    return compile_graph


def _standalone(argument: Tensor | nn.Module) -> Tensor | nn.Module:
    """Returns the same memory as a tensor that is not a view.

    The compiler follows a view to its base. It would compile again when the shapes of the two
    relate differently, as they do with one image, images of one size and images of several sizes.
    """
    if not isinstance(argument, Tensor):
        return argument
    stream = argument.contiguous()
    # Private: the public ways either return a view or copy the memory.
    return torch.ops.aten._unsafe_view(stream, stream.shape) if stream._is_view() else stream
