"""Work in a thread beside the main one: what comes before it, and what comes after it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import Any, TypeVar

import torch

T = TypeVar('T')
_END: Any = object()


def threads_beside(count: int) -> ThreadPoolExecutor:
    """Returns threads for work beside a model, whose tensor operators use one core each.

    Otherwise each of them would have as many threads of OpenMP as the model has. Where these are
    more than there are cores, libgomp lets the threads of the model sleep between its operators,
    and a frame of a video takes a seventh longer.
    """
    num_threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, initializer=_take_one_thread)
    # The last number that a thread has set is also that of threads to come, so all of these start
    # now, and the number of the caller is set again after them.
    started = Barrier(count + 1)
    for _ in range(count):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(num_threads)
    return pool


def _take_one_thread() -> None:
    torch.get_num_threads()  # without this, the first operator of a thread sets the number again
    torch.set_num_threads(1)


def read_ahead(items: Iterable[T], size: int) -> Iterator[T]:
    """Iterates in a thread, up to some items ahead.

    Args:
        items: What to iterate over.
        size: Largest number of items that wait.

    Yields:
        The items, in order. An error of the iteration is raised after the items before it.
    """
    iterator = iter(items)
    pool = threads_beside(1)
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
        self._pool = threads_beside(1)
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
