"""Work in a thread beside the main one: what comes before it, and what comes after it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar('T')
_END: Any = object()


def read_ahead(items: Iterable[T], size: int) -> Iterator[T]:
    """Iterates in a thread, up to some items ahead.

    Args:
        items: What to iterate over.
        size: Largest number of items that wait.

    Yields:
        The items, in order. An error of the iteration is raised after the items before it.
    """
    iterator = iter(items)
    pool = ThreadPoolExecutor(1)
    try:
        waiting = deque(pool.submit(next, iterator, _END) for _ in range(size))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, iterator, _END))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


class CallsBehind:
    """Calls functions in a thread, one after the other, while the caller goes on.

    As a context, it waits at its end for the calls that were handed over, whatever ended the body.
    After a call that fails, no other runs, and its error is raised where the next one is handed
    over or at the end of the body.

    Args:
        size: Largest number of calls that wait; handing over one more waits for the first.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[Future] = deque()
        self._failed = False

    def __call__(self, function: Callable[..., object], *args: Any) -> None:
        """Hands over a call."""
        self._waiting.append(self._pool.submit(self._run, function, *args))
        while len(self._waiting) > self._size:
            self._waiting.popleft().result()

    def _run(self, function: Callable[..., object], *args: Any) -> None:
        if self._failed:
            return
        try:
            function(*args)
        except BaseException:
            self._failed = True
            raise

    def __enter__(self) -> CallsBehind:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown()
        for call in self._waiting:
            if kind is None:
                call.result()
