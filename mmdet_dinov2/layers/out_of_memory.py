"""Recognises errors of exhausted memory, and frees what they leave behind."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

T = TypeVar('T')

# Texts of errors that are plain `RuntimeError`s: of PyTorch's allocator on CPUs, cuBLAS and cuDNN.
_TEXTS = (
    'DefaultCPUAllocator: not enough memory',
    "DefaultCPUAllocator: can't allocate memory",
    'CUBLAS_STATUS_ALLOC_FAILED',
    'CUDNN_STATUS_ALLOC_FAILED',
)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that memory is exhausted, on a GPU or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)


def release_memory() -> None:
    """Gives unused memory back, after the error that held on to it is gone.

    The traceback of an error refers to the tensors of all its frames. So call this after the
    ``except`` block, not within it.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def call_in_parts(function: Callable[[slice], Sequence[T]], count: int) -> list[T]:
    """Calls a function for all of a number of items, or for fewer at once if memory is exhausted.

    Args:
        function: Takes a range of items and returns a result for each.
        count: Number of items.

    Returns:
        The results.

    Raises:
        RuntimeError: If memory does not suffice for a single item.
    """
    results: list[T] = []
    size = count
    while len(results) < count:
        part = slice(len(results), min(len(results) + size, count))
        try:
            results += function(part)
            continue
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        release_memory()
        size = -(-size // 2)
    return results
