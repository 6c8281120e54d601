"""Settings that all measurements of a run share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .isolated import run_isolated
from .workers import Worker


@dataclass(frozen=True)
class Settings:
    """Settings of measurements.

    Attributes:
        device: 'cpu' or 'cuda'.
        seed: Seed of weights, sizes, images and boxes.
        repeats: Rounds of each measurement; None takes that of the suite.
        dry_run: Whether to use tiny sizes, to see that everything runs.
        time_limit: Largest number of seconds of a case in a process of its own.
        images: Sizes of the datasets of the suite `scale`.
        rfdetr: Environment of RF-DETR for the suite `real-time`.
        checkpoint: Checkpoint of the detector of the suite `tiles`; None takes random weights.
        run_case: Runs such a case; see ``run_isolated``.
        start_worker: Starts a process that keeps a model; see ``Worker``.
    """

    device: str = 'cpu'
    seed: int = 0
    repeats: int | None = None
    dry_run: bool = False
    time_limit: float = 600.0
    images: Sequence[int] = ()
    rfdetr: str | None = None
    checkpoint: str | None = None
    run_case: Callable[..., dict] = run_isolated
    start_worker: Callable[..., Worker] = Worker
