"""Near-duplicates and a greedy choice, one pair at a time."""

from __future__ import annotations

import math

import numpy as np


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Returns Pearson's correlation of two grey pictures, 0 if one has hardly any contrast."""
    a, b = (picture.astype(float).ravel() for picture in (first, second))
    if a.std() < 2 or b.std() < 2:
        return 0.0
    return float(((a - a.mean()) * (b - b.mean())).mean() / a.std() / b.std())


def best_correlation(first: np.ndarray, second: np.ndarray) -> tuple[float, bool]:
    """Returns the correlation with a picture or its mirror image, and which of them it is."""
    as_is, mirrored = correlation(first, second), correlation(first, second[:, ::-1])
    return (mirrored, True) if mirrored > as_is else (as_is, False)


def greedy_choice(
    photos: np.ndarray, count: int, centres: list[np.ndarray], weights: np.ndarray
) -> list[int]:
    """Returns the photos of greedy k-center.

    Args:
        photos: A unit vector for each photo, shape (N, D).
        count: Number of photos.
        centres: The labeled photos; the most typical photo is chosen first without any.
        weights: How many times the distance of each photo counts.
    """
    centres = list(centres)
    chosen: list[int] = []
    if not centres:
        typical = max(range(len(photos)), key=lambda i: float(photos[i] @ photos.sum(0)))
        chosen.append(typical)
        centres.append(photos[typical])
    while len(chosen) < count:
        best, farthest = -1, -1.0
        for i, photo in enumerate(photos):
            nearest = min(math.dist(photo, centre) for centre in centres)
            if i not in chosen and weights[i] * nearest > farthest:
                best, farthest = i, weights[i] * nearest
        chosen.append(best)
        centres.append(photos[best])
    return chosen
