"""Number of operators that a piece of work calls."""

from __future__ import annotations

from collections.abc import Callable

from torch.utils._python_dispatch import TorchDispatchMode


class _Counter(TorchDispatchMode):
    """Counts what PyTorch dispatches, without views, which compute nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def count_operators(run: Callable[[], object]) -> int:
    """Counts the operators of a call, those of backward passes included.

    On a GPU each of them starts about one kernel.

    Args:
        run: Called once.
    """
    with _Counter() as counter:
        run()
    return counter.count
