"""Near-duplicates of photos: the same picture resized, compressed again or mirrored.

Two photos are near-duplicates if small grey versions of them, *thumbnails*, correlate, or those of
one and of the mirror image of the other. Thumbnails are compared block by block, so the memory does
not grow with the number of pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

# Side of a thumbnail in pixels.
SIDE = 32
# Least correlation of near-duplicates.
MIN_CORRELATION = 0.97
# Standard deviation in grey levels below which a thumbnail shows nothing but noise.
_MIN_CONTRAST = 2.0
# Rows and columns of a block of similarities.
_BLOCK = 4096


class Rows(Protocol):
    """Vectors that are read some at a time."""

    def __len__(self) -> int:
        """Returns the number of vectors."""

    def __getitem__(self, rows: slice) -> Tensor:
        """Returns some of the vectors, shape (N, D), float32."""


@dataclass(frozen=True)
class Neighbours:
    """The most similar references of each query.

    Attributes:
        index: Positions of the references, the most similar first, shape (N, count), int64; -1
            where there are fewer.
        similarity: Their similarities, shape (N, count), float32; -inf where there are fewer.
    """

    index: np.ndarray
    similarity: np.ndarray


@dataclass(frozen=True)
class Copies:
    """For each photo, the one that it is a near-duplicate of.

    Attributes:
        index: Position of the most similar reference, shape (N,), int64; -1 for no near-duplicate.
        correlation: Correlation of the thumbnails, shape (N,), float32, in -1..1.
        mirrored: Whether it resembles the mirror image of the reference, shape (N,).
    """

    index: np.ndarray
    correlation: np.ndarray
    mirrored: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """Positions of the photos that are near-duplicates, shape (M,)."""
        return np.flatnonzero(self.index >= 0)


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Returns the thumbnail of a picture, whatever its aspect ratio.

    Args:
        pixels: The picture, (H, W, 3), uint8, BGR or RGB.

    Returns:
        Grey levels, (``SIDE``, ``SIDE``), uint8.
    """
    small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    # Without the weights of the channels, which would need their order.
    return small.mean(axis=2).round().astype(np.uint8)


class Thumbnails:
    """Thumbnails as vectors whose scalar product is their correlation.

    A thumbnail without contrast becomes zeros, and so is like no other one.

    Args:
        grey: Grey levels, shape (N, ``SIDE``, ``SIDE``), uint8; it may be mapped from a file.
        rows: Which of them, shape (M,); by default all.
        mirrored: Whether to mirror them.
    """

    def __init__(
        self, grey: np.ndarray, rows: np.ndarray | None = None, mirrored: bool = False
    ) -> None:
        self._grey = grey
        self._rows = np.arange(len(grey)) if rows is None else rows
        self._mirrored = mirrored

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice | np.ndarray) -> Tensor:
        grey = np.asarray(self._grey[self._rows[rows]], dtype=np.float32)
        if self._mirrored:
            grey = grey[..., ::-1]
        vectors = torch.from_numpy(np.ascontiguousarray(grey)).flatten(1)
        vectors = vectors - vectors.mean(1, keepdim=True)
        norms = vectors.norm(dim=1, keepdim=True)
        flat = norms < _MIN_CONTRAST * SIDE
        return (vectors / norms.clamp(min=1e-6)).masked_fill(flat, 0.0)

    def of(self, rows: np.ndarray) -> Thumbnails:
        """Returns some of the thumbnails, by their positions, shape (M,)."""
        return Thumbnails(self._grey, self._rows[rows], self._mirrored)

    def mirror(self) -> Thumbnails:
        """Returns the thumbnails of the mirror images."""
        return Thumbnails(self._grey, self._rows, not self._mirrored)


def nearest(
    queries: Rows,
    references: Rows,
    count: int = 1,
    *,
    only_earlier: bool = False,
    device: torch.device | str = 'cpu',
    block: int = _BLOCK,
    progress: Callable[[], None] = lambda: None,
) -> Neighbours:
    """Finds the references with the largest scalar products, by brute force in blocks.

    Args:
        queries: Vectors.
        references: Vectors to look among.
        count: Number of references to find for each query.
        only_earlier: Whether queries and references are the same, and a query finds those before
            it only.
        device: Where to compute.
        block: Rows and columns of the similarities that are in memory at a time.
        progress: Called after each block of queries.
    """
    index = np.full((len(queries), count), -1, dtype=np.int64)
    similarity = np.full((len(queries), count), -np.inf, dtype=np.float32)
    for start in range(0, len(queries), block):
        query = queries[start : start + block].to(device)
        best = query.new_full((len(query), count), -torch.inf)
        place = torch.full_like(best, -1, dtype=torch.int64)
        stop = min(start + len(query), len(references)) if only_earlier else len(references)
        for first in range(0, stop, block):
            reference = references[first : min(first + block, stop)].to(device)
            found = query @ reference.T
            if only_earlier and first + len(reference) > start:
                rows = torch.arange(start, start + len(query), device=found.device)
                columns = torch.arange(first, first + len(reference), device=found.device)
                found = found.masked_fill(columns >= rows[:, None], -torch.inf)
            values, at = found.topk(min(count, found.shape[1]), dim=1)
            values, order = torch.cat((best, values), 1).topk(count, dim=1)
            place = torch.cat((place, at + first), 1).gather(1, order)
            best = values
        place = place.masked_fill(best == -torch.inf, -1)
        index[start : start + len(query)] = place.cpu().numpy()
        similarity[start : start + len(query)] = best.cpu().numpy()
        progress()
    return Neighbours(index, similarity)


def find_copies(
    photos: Thumbnails,
    references: Thumbnails,
    candidates: np.ndarray | None = None,
    *,
    min_correlation: float = MIN_CORRELATION,
    block: int = _BLOCK,
) -> Copies:
    """Finds the photos that are near-duplicates of references.

    Args:
        photos: Thumbnails of the photos.
        references: Thumbnails to compare with.
        candidates: Positions of the references to compare each photo with, shape (N, count), -1 for
            none; by default all.
        min_correlation: Least correlation of near-duplicates.
        block: Number of photos that are compared at a time.
    """
    if not len(photos) or not len(references):
        nothing = np.zeros(len(photos))
        return Copies(nothing.astype(int) - 1, nothing - 1, nothing.astype(bool))
    if candidates is None:
        found = [nearest(photos, way, block=block) for way in (references, references.mirror())]
        both = np.concatenate([one.similarity for one in found], axis=1)
        places = np.concatenate([one.index for one in found], axis=1)
    else:
        places = np.concatenate((candidates, candidates), axis=1)
        both = np.empty(places.shape, dtype=np.float32)
        for start in range(0, len(photos), block):
            rows = slice(start, start + block)
            photo = photos[rows]
            for column, way in enumerate((references, references.mirror())):
                # A position of -1 reads the last reference, whose correlation is not used.
                for place in range(candidates.shape[1]):
                    products = (photo * way[candidates[rows, place]]).sum(1)
                    both[rows, column * candidates.shape[1] + place] = products.numpy()
        both[places < 0] = -np.inf
    best = both.argmax(1)
    rows = np.arange(len(best))
    correlation = both[rows, best]
    index = np.where(correlation >= min_correlation, places[rows, best], -1)
    return Copies(index, correlation, best >= both.shape[1] // 2)
