"""How often the host would wait for a GPU, counted on a CPU.

The parameters of a model, and everything computed from them or sent to their device, count as lying
on a device. The host waits where it needs numbers from there, and where it sends pageable memory
without ``non_blocking=True``.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .operators import OTHER

_aten = torch.ops.aten
# Operators whose result, or its shape, the host needs.
_WAITING = {
    _aten._local_scalar_dense, _aten.nonzero, _aten.masked_select, _aten.equal, _aten.bincount,
    _aten._unique2, _aten.unique_consecutive, _aten.unique_dim, _aten.is_nonzero,
}  # fmt: skip
_INDEXING = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}


class WaitCounter:
    """Counts the waits of the host while it is entered; see the module.

    Args:
        on_device: Tensors that lie on the device, such as the parameters of a model.

    Attributes:
        counts: Number of waits by part and name of the function that waits.
    """

    def __init__(self, on_device: Iterable[Tensor]) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._part = OTHER
        # Their memory, by address: views are other objects with the same memory.
        self._memory: dict[int, StorageWeakRef] = {}
        self.place(on_device, True)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts for the part of this name in the body."""
        outer, self._part = self._part, name
        try:
            yield
        finally:
            self._part = outer

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Counts in the body."""
        with _Operators(self), _Calls(self):
            yield

    def wait(self, name: str) -> None:
        """Counts one wait."""
        self.counts[self._part, name] += 1

    def holds(self, value: Any) -> bool:
        """Returns whether a value is a tensor on the device."""
        if not isinstance(value, Tensor) or not (memory := _memory_of(value)):
            return False
        known = self._memory.get(memory.data_ptr())
        return known is not None and not known.expired()

    def place(self, tensors: Iterable[Any], on_device: bool) -> None:
        """Notes where new tensors lie."""
        for tensor in tensors:
            if not isinstance(tensor, Tensor) or not (memory := _memory_of(tensor)):
                continue
            if on_device:
                self._memory[memory.data_ptr()] = StorageWeakRef(memory)
            else:
                self._memory.pop(memory.data_ptr(), None)


class _Operators(TorchDispatchMode):
    """Follows tensors through operators, those of the backward pass included."""

    def __init__(self, waits: WaitCounter) -> None:
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        waits = self._waits
        on_device = [waits.holds(value) for value in tree_leaves((args, kwargs))]
        if any(on_device) and self._waits_in(func.overloadpacket, args, kwargs):
            waits.wait(func.overloadpacket.__name__)
        result = func(*args, **kwargs)
        waits.place(tree_leaves(result), any(on_device))
        return result

    def _waits_in(self, operator, args: tuple, kwargs: dict) -> bool:
        if operator in _INDEXING:
            # The places of True are numbers for the host; numbers of the host have to be sent.
            return any(
                index.dtype == torch.bool or not self._waits.holds(index)
                for index in args[1]
                if index is not None and index.numel()
            )
        if operator is _aten.repeat_interleave:
            return kwargs.get('output_size') is None
        return operator in _WAITING


class _Calls(TorchFunctionMode):
    """Follows tensors between host and device, which on a CPU calls no operator."""

    def __init__(self, waits: WaitCounter) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        waits, name = self._waits, getattr(func, '__name__', '')
        from_device = bool(args) and waits.holds(args[0])
        if name in ('cpu', 'tolist') and from_device:
            waits.wait(name)
            if name == 'tolist':
                return func(*args, **kwargs)
            copy = args[0].detach().clone()
            waits.place([copy], False)
            return copy
        if name in ('to', 'cuda') and isinstance(args[0], Tensor):
            if from_device or not self._names_device(args, kwargs):
                return func(*args, **kwargs)
            if not kwargs.get('non_blocking'):
                waits.wait(name)
            copy = func(*args, **kwargs).clone()
            waits.place([copy], True)
            return copy
        result = func(*args, **kwargs)
        if name in ('tensor', 'as_tensor') and kwargs.get('device') is not None:
            waits.wait(name)
            waits.place([result], True)
        elif name == 'new_tensor' and from_device:
            waits.wait(name)
            waits.place([result], True)
        elif kwargs.get('device') is not None and isinstance(result, Tensor):
            waits.place([result], True)
        return result

    def _names_device(self, args: tuple, kwargs: dict) -> bool:
        """Returns whether ``to`` is called with a device, or a tensor that lies on it."""
        if kwargs.get('device') is not None:
            return True
        others = [*args[1:], kwargs.get('other')]
        return any(isinstance(o, (str, torch.device)) or self._waits.holds(o) for o in others)


def _memory_of(tensor: Tensor) -> torch.UntypedStorage | None:
    """Returns the memory of a tensor; None if it has none."""
    try:
        memory = tensor.untyped_storage()
        return memory if memory.data_ptr() else None
    except (RuntimeError, NotImplementedError):  # sparse and abstract tensors
        return None
