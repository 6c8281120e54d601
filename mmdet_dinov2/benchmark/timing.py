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
    """Median and quartiles of numbers.

    Attributes:
        median: Median of the numbers; for a ratio of cases, the ratio of their medians.
        low: First quartile.
        high: Third quartile.
        count: How many numbers there are.
    """

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarises one or more numbers."""
        low, median, high = np.quantile(np.asarray(values, dtype=float), (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high), len(values))

    def __str__(self) -> str:
        median, low, high = (
            f'{number:.3g}' if number < 1000 else f'{number:.0f}'
            for number in (self.median, self.low, self.high)
        )
        return f'{median} ({low}..{high})'

    def as_dict(self) -> dict[str, float]:
        """Returns the attributes by name."""
        return asdict(self)


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Computes the ratio of the medians of two cases that were measured in turns.

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
            'cases measured in turns must have the same number of times, but have '
            f'{len(numerator)} and {len(denominator)}'
        )
    rounds = Spread.of([a / b for a, b in zip(numerator, denominator, strict=True)])
    median = Spread.of(numerator).median / Spread.of(denominator).median
    return Spread(median, rounds.low, rounds.high, rounds.count)


def synchronize(device: torch.device | str) -> None:
    """Waits until the device has done its work; a CPU needs no waiting."""
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)


def measure(function: Callable[[], object], device: torch.device | str) -> float:
    """Returns the seconds of one call, until the device has done its work."""
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
    """Calls all cases once per round, so that a slow phase of the machine affects all of them.

    Every second round runs in reverse order, so that no case always follows the same one. Garbage
    is collected between the calls only.

    Args:
        cases: Functions to call, by name.
        repeats: Number of rounds that count.
        device: Device that the cases use.
        warmup: Number of rounds before them that do not count.

    Returns:
        The seconds of each round, for each case.

    Raises:
        ValueError: If ``repeats`` is less than 1.
    """
    if repeats < 1:
        raise ValueError(f'repeats must be at least 1, but is {repeats}')
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
