"""What all measurements of a run share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .isolated import run_isolated


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        device: 'cpu' or 'cuda'.
        seed: Seed of weights, sizes, images and boxes.
        repeats: Rounds of each measurement; None takes the number of the suite.
        dry_run: Whether to use tiny sizes, only to see that everything runs.
        time_limit: Seconds that a case in a process of its own may take.
        run_case: Runs such a case; see ``run_isolated``.
    """

    device: str = 'cpu'
    seed: int = 0
    repeats: int | None = None
    dry_run: bool = False
    time_limit: float = 600.0
    run_case: Callable[..., dict] = run_isolated
