"""What other programs take of the machine."""

from __future__ import annotations

import time


def busy_cores(seconds: float = 0.2) -> float | None:
    """Number of cores that are busy while this process waits; None where it cannot be told.

    The load average would not do: it remembers the program that ended a minute ago.

    Args:
        seconds: How long to look.
    """
    before = _cpu_times()
    time.sleep(seconds)
    after = _cpu_times()
    if before is None or after is None:
        return None
    (busy_before, total_before, cores), (busy_after, total_after, _) = before, after
    total = total_after - total_before
    return cores * (busy_after - busy_before) / total if total > 0 else None


def _cpu_times() -> tuple[int, int, int] | None:
    """Ticks that all cores were busy, ticks in all, and the number of cores."""
    try:
        with open('/proc/stat') as file:
            lines = [line.split() for line in file if line.startswith('cpu')]
    except OSError:  # not Linux
        return None
    user, nice, system, idle, waiting, *others = map(int, lines[0][1:9])
    busy = user + nice + system + sum(others)
    return busy, busy + idle + waiting, len(lines) - 1
