"""Peak memory of a piece of work."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

MIB = 2**20


class PeakMemory:
    """Largest memory that was taken since this object was made.

    On CUDA that is what torch allocated for tensors. On a CPU it is the growth of the resident
    memory of the process (Linux), which is meaningful in a process that does nothing else: memory
    that earlier work has freed may be reused without growth.

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
            self._begin = _status('VmRSS')

    def mib(self) -> float:
        """Peak so far in MiB above the beginning."""
        if self.device.type == 'cuda':
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            peak = _status('VmHWM')
        return (peak - self._begin) / MIB


def _status(field: str) -> int:
    """A size of this process in bytes; see proc_pid_status(5)."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{field}:'):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f'/proc/self/status has no {field}: peak memory of a CPU is read on Linux')


def _load_kernels() -> None:
    """Trains a tiny network, so that code of PyTorch that is loaded on first use is loaded."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(8 * 36, 8))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for _ in range(2):
        net(torch.ones(2, 3, 8, 8)).softmax(-1)[:, 0].sum().backward()
        optimizer.step()
