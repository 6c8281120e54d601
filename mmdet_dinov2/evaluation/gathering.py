"""Arrays of all processes of a run, brought to the main one."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import torch
from mmengine.dist import all_gather, get_comm_device, get_world_size, is_main_process

# Bytes of each process that travel at once: with NCCL they pass through the memory of the GPU.
_CHUNK = 2**22


def gather_arrays(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Brings the arrays of all processes to the main process; all processes have to call it.

    They travel as bytes, never as pickled objects, and need no common file system.

    Args:
        arrays: Arrays of this process, of any shape and of a type without objects.

    Returns:
        The arrays of each process, by rank; an empty list in all processes but the main one.
    """
    if get_world_size() == 1:
        return [dict(arrays)]
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    parts = _gather_bytes(np.frombuffer(buffer.getbuffer(), dtype=np.uint8))
    found = []
    for part in parts:
        with np.load(io.BytesIO(part), allow_pickle=False) as stored:
            found.append(dict(stored))
    return found


def _gather_bytes(data: np.ndarray) -> list[np.ndarray]:
    """Returns the bytes of each process, of any lengths, in the main process."""
    device = get_comm_device()
    sizes = torch.cat(all_gather(torch.tensor([len(data)], device=device))).tolist()
    received = [np.empty(size, dtype=np.uint8) for size in sizes] if is_main_process() else []
    for begin in range(0, max(sizes), _CHUNK):
        # All send as many bytes, whether they have them or not.
        sent = torch.zeros(min(_CHUNK, max(sizes) - begin), dtype=torch.uint8, device=device)
        own = data[begin : begin + _CHUNK]
        sent[: len(own)] = torch.from_numpy(own)
        arrived = [torch.empty_like(sent) for _ in received]
        torch.distributed.gather(sent, arrived or None, dst=0)
        for whole, piece in zip(received, arrived, strict=True):
            place = whole[begin : begin + _CHUNK]
            place[:] = piece[: len(place)].cpu().numpy()
    return received
