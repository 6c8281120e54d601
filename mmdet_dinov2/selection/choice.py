"""A diverse choice among photos: each is far from those that are labeled or chosen before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ..data.near_duplicates import Rows, nearest

_BLOCK = 65536
# How many times as far a photo counts whose detections are as unsure as they can be.
_MAX_WEIGHT = 2.0


@dataclass(frozen=True)
class Choice:
    """Photos that were chosen, in this order.

    Attributes:
        index: Their positions, shape (M,), int64.
        distance: Distance of each from the nearest photo that is labeled or chosen before it, shape
            (M,), in 0..2; NaN for a first one with nothing to be far from.
        skipped: Number of photos that were passed over as near-duplicates of chosen ones.
    """

    index: np.ndarray
    distance: np.ndarray
    skipped: int


def choose_diverse(
    photos: Rows,
    count: int,
    labeled: Rows | None = None,
    uncertainty: np.ndarray | None = None,
    is_copy: Callable[[int, list[int]], bool] = lambda photo, chosen: False,
    device: torch.device | str = 'cpu',
) -> Choice:
    """Chooses photos by greedy k-center (Gonzalez 1985; as active learning: arXiv:1708.00489).

    The next photo is always the one that is farthest from all that are labeled or chosen. With
    nothing labeled, the first one is the most typical.

    Args:
        photos: Unit vectors of the photos.
        count: Number of photos to choose.
        labeled: Unit vectors of the labeled photos, if there are any.
        uncertainty: How unsure a detector is of each photo, in 0..1, shape (N,): the distance of an
            unsure photo counts up to twice.
        is_copy: Whether a photo is a near-duplicate of one of the chosen ones, which is then passed
            over.
        device: Where to compare photos with labeled ones.

    Returns:
        The chosen photos, fewer if there are not enough that differ.
    """
    weight = np.ones(len(photos), dtype=np.float32)
    if uncertainty is not None:
        weight += (_MAX_WEIGHT - 1) * uncertainty.astype(np.float32)
    left = np.ones(len(photos), dtype=bool)
    chosen: list[int] = []
    distances: list[float] = []
    if labeled is not None and len(labeled):
        distance = _distance(nearest(photos, labeled, device=device).similarity[:, 0])
    elif len(photos) and count > 0:
        first = int(_products(photos, _mean(photos)).argmax())
        chosen, distances = [first], [np.nan]
        left[first] = False
        distance = _distance(_products(photos, photos[np.array([first])][0]))
    skipped = 0
    while len(chosen) < count and left.any():
        place = int(np.where(left, weight * distance, -1.0).argmax())
        left[place] = False
        if is_copy(place, chosen):
            skipped += 1
            continue
        chosen.append(place)
        distances.append(float(distance[place]))
        vector = photos[np.array([place])][0]
        distance = np.minimum(distance, _distance(_products(photos, vector)))
    return Choice(np.array(chosen, dtype=np.int64), np.array(distances), skipped)


def _distance(cosine: np.ndarray) -> np.ndarray:
    """Returns the distances of unit vectors, by their cosines."""
    return np.sqrt(np.maximum(2 - 2 * cosine, 0))


def _products(photos: Rows, vector: torch.Tensor) -> np.ndarray:
    blocks = range(0, len(photos), _BLOCK)
    return np.concatenate([(photos[at : at + _BLOCK] @ vector).numpy() for at in blocks])


def _mean(photos: Rows) -> torch.Tensor:
    blocks = range(0, len(photos), _BLOCK)
    return torch.stack([photos[at : at + _BLOCK].sum(0) for at in blocks]).sum(0)
