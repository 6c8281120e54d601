"""When a device idles: gaps between its kernels in a profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from .timing import synchronize


@dataclass(frozen=True)
class Span:
    """One kernel.

    Attributes:
        name: Its name.
        start: When it began, in microseconds.
        end: When it ended.
    """

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Gap:
    """A time without a kernel.

    Attributes:
        seconds: How long it was.
        before: Name of the kernel before it.
        after: Name of the kernel after it.
    """

    seconds: float
    before: str
    after: str


def profile_kernels(run: Callable[[], object], device: torch.device | str) -> list[Span]:
    """Returns the kernels of a call; on a CPU, the operators that no other one calls.

    Args:
        run: Called once.
        device: Its device.
    """
    on_gpu = torch.device(device).type == 'cuda'
    activities = [ProfilerActivity.CUDA] if on_gpu else []
    synchronize(device)
    with profile(activities=[ProfilerActivity.CPU, *activities]) as profiler:
        run()
        synchronize(device)
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    return [
        Span(event.name, event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == wanted and (on_gpu or event.cpu_parent is None)
    ]


def find_gaps(spans: Sequence[Span]) -> tuple[list[Gap], float]:
    """Finds the times between the first and the last kernel in which none ran.

    Args:
        spans: The kernels; they may overlap.

    Returns:
        The gaps, longest first, and the share of the time in which a kernel ran.
    """
    ordered = sorted(spans, key=lambda span: span.start)
    gaps, last = [], ordered[0]
    for span in ordered[1:]:
        if span.start > last.end:
            gaps.append(Gap((span.start - last.end) / 1e6, last.name, span.name))
        if span.end > last.end:
            last = span
    whole = (last.end - ordered[0].start) / 1e6
    busy = 1 - sum(gap.seconds for gap in gaps) / whole
    return sorted(gaps, key=lambda gap: -gap.seconds), busy
