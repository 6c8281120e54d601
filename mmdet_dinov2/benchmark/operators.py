"""Number of operators that a piece of work calls."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
# Operators that compute nothing, besides views.
_FREE = {
    _aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty, _aten.promote_types,
    _aten.new_empty_strided, _aten._unsafe_view,
}  # fmt: skip
# What no part claims.
OTHER = 'other'


class OperatorCounter(TorchDispatchMode):
    """Counts what PyTorch dispatches while it is entered, backward passes included.

    On a GPU an operator starts about one kernel. Views and allocations are left out: they compute
    nothing. An operator that calls others, such as deformable attention, counts once.

    Attributes:
        counts: Number of calls by part and name of the operator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, str]] = Counter()
        self._part = OTHER

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts for the part of this name in the body."""
        outer, self._part = self._part, name
        try:
            yield
        finally:
            self._part = outer

    @contextlib.contextmanager
    def in_place_of_body(self, name: str, count: int) -> Iterator[None]:
        """Counts so many kernels under a name, and not the operators of the body."""
        self.counts[self._part, name] += count
        before = self.counts.copy()
        try:
            yield
        finally:
            self.counts = before

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view and func.overloadpacket not in _FREE:
            self.counts[self._part, func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def count_operators(run: Callable[[], object]) -> int:
    """Counts the operators of a call; see :class:`OperatorCounter`.

    Args:
        run: Called once.
    """
    with OperatorCounter() as counter:
        run()
    return counter.counts.total()


def sums(counts: Counter[tuple[str, str]], place: int) -> Counter[str]:
    """Adds up counts by part (place 0) or by name (place 1)."""
    added: Counter[str] = Counter()
    for key, count in counts.items():
        added[key[place]] += count
    return added
