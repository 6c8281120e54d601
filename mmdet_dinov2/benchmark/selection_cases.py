"""What the comparison of chosen with random photos runs in processes of its own."""

from __future__ import annotations

from typing import Any

from ..engine.training import train
from ..selection.selecting import select_photos


def train_case(config: str, data: str, work_dir: str, options: dict[str, Any]) -> dict:
    """Trains, or goes on with a training; returns its checkpoint."""
    result = train(config, data, work_dir=work_dir, options=options, resume=True, preflight=False)
    return dict(checkpoint=result.checkpoint)


def choose_case(
    unlabeled: str, data: str, count: int, checkpoint: str, unsure: bool, out: str
) -> dict:
    """Chooses photos by the embeddings of a detector; returns their files.

    Args:
        unlabeled: As for :func:`.select_photos`.
        data: As for :func:`.select_photos`.
        count: As for :func:`.select_photos`.
        checkpoint: Checkpoint of the detector.
        unsure: Whether photos that the detector is unsure of are preferred.
        out: As for :func:`.select_photos`.
    """
    result = select_photos(
        unlabeled,
        data,
        count=count,
        checkpoint=checkpoint,
        prefer_unsure=unsure,
        out=out,
        tell=lambda line: None,
    )
    return dict(chosen=result.selection.chosen)
