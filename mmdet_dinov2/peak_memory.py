"""Peak memory of a piece of work."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

MIB = 2**20


class PeakMemory:
    """Measures the largest memory in use since this object was created.

    On CUDA this is what torch allocated for tensors. On a CPU it is the growth of the resident
    memory of the process (Linux only). It is meaningful in a process that does nothing else, as
    memory that earlier work freed is used again without growth.

    Args:
        device: Device of the work.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        if self.device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats(self.device)
            self._begin = torch.cuda.memory_allocated(self.device)
        else:
            _load_kernels()
            Path('/proc/self/clear_refs').write_text('5')  # the peak starts at the current size
            self._begin = _of_process('VmRSS')

    def mib(self) -> float:
        """Returns the peak so far, in MiB above the start."""
        if self.device.type == 'cuda':
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            peak = _of_process('VmHWM')
        return (peak - self._begin) / MIB


def _of_process(name: str) -> int:
    """Returns the resident memory of this process (VmRSS) or its peak (VmHWM), in bytes."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{name}:'):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f'/proc/self/status must have a line {name}; peak memory needs Linux')


def _load_kernels() -> None:
    """Trains a tiny network, so that PyTorch loads the code that it loads on first use."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(8 * 36, 8))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for _ in range(2):
        net(torch.ones(2, 3, 8, 8)).softmax(-1)[:, 0].sum().backward()
        optimizer.step()
