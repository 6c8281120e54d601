"""Proposals with almost the same score, whose order rounding decides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..models import PaddingAwareDINO


@contextmanager
def given_order(detector: PaddingAwareDINO, order: Tensor) -> Iterator[list[float]]:
    """Makes a detector turn given proposals into queries, in the place of the best ones.

    Args:
        detector: The detector, in evaluation mode, for images of one size.
        order: Their cells in the stream of the pyramids, int64, shape (B, queries); numbers beyond
            the cells of an image stand for proposals that it lacks.

    Yields:
        A list that each forward pass adds to: how far the logits of the given proposals are from
        those of the best ones, relative to the largest; infinite if others are missing.
    """
    layout_of = detector.layout_of
    distances: list[float] = []

    def with_order(*args: Any) -> Any:
        layout = layout_of(*args)
        best = layout.best

        def given(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
            wanted, _ = best(scores, count)
            cells = order.to(scores.device)
            ends = torch.tensor(layout.lengths, device=scores.device).cumsum(0)[:, None]
            missing = cells >= ends
            ranking = scores[cells.masked_fill(missing, 0)].masked_fill(missing, -torch.inf)
            distances.append(_distance(wanted, ranking))
            return ranking, cells

        layout.best = given
        return layout

    detector.layout_of = with_order
    try:
        yield distances
    finally:
        del detector.layout_of


def _distance(wanted: Tensor, given: Tensor) -> float:
    usable = torch.isfinite(wanted)
    if not torch.equal(usable, torch.isfinite(given)):
        return float('inf')
    if not usable.any():
        return 0.0
    wanted, given = wanted[usable], given[usable]
    return float((wanted - given).abs().max() / wanted.abs().max())
