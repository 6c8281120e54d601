"""Number of kernels that ``torch.compile`` makes of a graph.

PyTorch's compiler, inductor, lowers the graph and decides which operators share a kernel; then it
is stopped, before it writes code for the machine. So it takes a second for each graph, and needs no
other compiler. A product of matrices, or any other operator of a library, counts as a kernel too.
The decisions are those for a CPU. For a GPU they are made by the same rules; there, some reductions
take two kernels.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, fx

from .operators import OperatorCounter


class KernelCountingBackend:
    """A backend of ``torch.compile`` that runs graphs as they are and counts their kernels.

    Attributes:
        counter: Where kernels are counted, in place of the operators of the graphs; None counts
            nothing.
    """

    def __init__(self) -> None:
        self.counter: OperatorCounter | None = None

    def __call__(self, graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Callable:
        # Importing the compiler takes seconds.
        from torch._inductor.compile_fx import compile_fx

        return compile_fx(graph, inputs, inner_compile=self._compile)

    def _compile(self, graph: fx.GraphModule, inputs: Sequence[Tensor], **kwargs: Any) -> Callable:
        from functorch.compile import make_boxed_func

        # The compiler changes the graph.
        kernels = count_kernels(copy.deepcopy(graph), inputs, **kwargs)

        def run(*args):
            if self.counter is None:
                return graph(*args)
            with self.counter.in_place_of_body('compiled', kernels):
                return graph(*args)

        return make_boxed_func(run)


def count_kernels(graph: fx.GraphModule, inputs: Sequence[Tensor], **kwargs: Any) -> int:
    """Counts the kernels of a graph, as the module says.

    Args:
        graph: A graph that inductor hands to its inner compiler. It is changed.
        inputs: Its example inputs.
        **kwargs: What inductor hands on besides.
    """
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx_inner

    # A graph that is in the cache would not be lowered.
    with config.patch(fx_graph_cache=False), _stopped_before_code() as counts:
        try:
            compile_fx_inner(graph, inputs, **kwargs)
        except Exception:  # the compiler raises an error of its own
            if not counts:
                raise
    # For a graph that computes nothing, some releases of torch write no code.
    return sum(counts)


class _StopError(Exception):
    """Ends a compilation."""


@contextlib.contextmanager
def _stopped_before_code() -> Iterator[list[int]]:
    """Stops compilations when their kernels are known; yields the numbers of kernels."""
    # Private: nothing public says which operators share a kernel.
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V

    counts: list[int] = []

    def stop(code: str) -> None:
        counts.append(sum(map(_is_kernel, V.graph.scheduler.nodes)))
        raise _StopError

    before = GraphLowering.save_output_code
    GraphLowering.save_output_code = staticmethod(stop)
    try:
        yield counts
    finally:
        GraphLowering.save_output_code = before


def _is_kernel(node: Any) -> bool:
    """Returns whether a part of a lowered graph computes something."""
    from torch._inductor.ir import MultiOutput
    from torch._inductor.scheduler import NopKernelSchedulerNode

    return not isinstance(node, NopKernelSchedulerNode) and not isinstance(node.node, MultiOutput)
