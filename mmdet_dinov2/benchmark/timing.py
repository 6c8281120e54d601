"""Times of several cases, measured in turns, and their ratios."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Spread:
    """A median and how far the numbers lie apart.

    Attributes:
        median: Median of the numbers; of a ratio, the ratio of the two medians.
        low: First quartile.
        high: Third quartile.
        count: Number of them.
    """

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarises at least one number."""
        low, median, high = np.quantile(np.asarray(values, dtype=float), (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high), len(values))

    def __str__(self) -> str:
        median, low, high = (
            f'{number:.3g}' if number < 1000 else f'{number:.0f}'
            for number in (self.median, self.low, self.high)
        )
        return f'{median} ({low}..{high})'

    def as_dict(self) -> dict[str, float]:
        """The numbers by name."""
        return asdict(self)


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Ratio of the medians of two cases that were measured in turns.

    Args:
        numerator: Times of one case, in the order of the rounds.
        denominator: Times of the other case in the same rounds.

    Returns:
        The ratio of the medians; the quartiles are those of the ratios of each round.

    Raises:
        ValueError: If the numbers of rounds differ.
    """
    if len(numerator) != len(denominator):
        raise ValueError(
            f'cases measured in turns have equally many times, not {len(numerator)} and '
            f'{len(denominator)}'
        )
    rounds = Spread.of([a / b for a, b in zip(numerator, denominator, strict=True)])
    median = Spread.of(numerator).median / Spread.of(denominator).median
    return Spread(median, rounds.low, rounds.high, rounds.count)


def synchronize(device: torch.device | str) -> None:
    """Waits for what was handed to the device; on a CPU nothing is to wait for."""
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)


def measure(function: Callable[[], object], device: torch.device | str) -> float:
    """Seconds that one call takes, until the device has done its work."""
    synchronize(device)
    begin = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - begin


def measure_in_turns(
    cases: Mapping[str, Callable[[], object]],
    repeats: int,
    device: torch.device | str = 'cpu',
    warmup: int = 1,
) -> dict[str, list[float]]:
    """Calls all cases once per round, so that a slow moment of the machine meets all of them.

    Every second round runs backwards, so that no case always follows the same one. Garbage is
    collected between the calls and not within.

    Args:
        cases: What to call, by name.
        repeats: Number of rounds that count.
        device: Device that the cases work on.
        warmup: Rounds before them that do not count.

    Returns:
        For each case the seconds of each round.

    Raises:
        ValueError: If nothing would be measured.
    """
    if repeats < 1:
        raise ValueError(f'at least 1 repeat is needed, not {repeats}')
    times: dict[str, list[float]] = {name: [] for name in cases}
    was_enabled = gc.isenabled()
    try:
        for number in range(-warmup, repeats):
            names: Iterable[str] = reversed(list(cases)) if number % 2 else cases
            for name in names:
                gc.collect()
                gc.disable()
                seconds = measure(cases[name], device)
                gc.enable()
                if number >= 0:
                    times[name].append(seconds)
    finally:
        (gc.enable if was_enabled else gc.disable)()
    return times
