"""Which photos to label next, and which of them are the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch

from ..data.near_duplicates import MIN_CORRELATION, Copies, find_copies, nearest
from .choice import choose_diverse
from .embeddings import Directions, PhotoEmbeddings

UNLABELED = 'unlabeled'
# Photos with the most similar embeddings, whose thumbnails are compared.
NUM_CANDIDATES = 5


@dataclass(frozen=True)
class NearDuplicate:
    """A photo that shows the same as another one.

    Attributes:
        photo: Its file.
        split: 'train', 'val', 'test' or 'unlabeled'.
        of: File of the other photo, of an earlier split, or before it in the same one.
        of_split: Split of the other photo.
        correlation: Correlation of their thumbnails.
        mirrored: Whether one of them is mirrored.
    """

    photo: str
    split: str
    of: str
    of_split: str
    correlation: float
    mirrored: bool


@dataclass(frozen=True)
class Selection:
    """Photos to label.

    Attributes:
        chosen: Their files, the first one to label first.
        distance: Distance of the embedding of each from that of the nearest photo that is labeled
            or chosen before, in 0..2; NaN for a first one without any.
        uncertainty: How unsure the detector is of each, in bits, in 0..1; ``None`` without one.
        left_out: Number of photos that were no candidates, as near-duplicates of labeled ones.
        skipped: Number of photos that were passed over as near-duplicates of chosen ones.
    """

    chosen: list[str]
    distance: np.ndarray
    uncertainty: np.ndarray | None
    left_out: int
    skipped: int


class PhotoSplits:
    """The photos of all splits, with their embeddings.

    Args:
        photos: Embeddings of all photos.
        splits: Files of the photos of each split, labeled ones before unlabeled ones. Those that
            cannot be read are left out.
        device: Where to compare embeddings.
    """

    def __init__(
        self,
        photos: PhotoEmbeddings,
        splits: Mapping[str, Sequence[str]],
        device: torch.device | str = 'cpu',
    ) -> None:
        self._photos = photos
        self._device = device
        self._centre = photos.mean()
        position = {path: place for place, path in enumerate(photos.paths)}
        self._places = {
            split: np.array([position[path] for path in paths if path in position], dtype=np.int64)
            for split, paths in splits.items()
        }
        self._copies: dict[tuple[str, str], Copies] = {}

    def near_duplicates(self, start: Callable[[int], Callable[[], None]]) -> list[NearDuplicate]:
        """Finds near-duplicates within and across splits.

        For each photo and each earlier split, and its own one, the most similar photo is listed, if
        it is a near-duplicate. Embeddings say which photos to compare, thumbnails whether they are
        the same.

        Args:
            start: Called with the number of comparisons of splits; returns a function to call after
                each.
        """
        pairs = list(combinations_with_replacement(self._places, 2))
        advance = start(len(pairs))
        found = []
        for of_split, split in pairs:
            copies = self._copies_of(split, of_split)
            for place in copies.found.tolist():
                found.append(
                    NearDuplicate(
                        self._path(split, place),
                        split,
                        self._path(of_split, int(copies.index[place])),
                        of_split,
                        float(copies.correlation[place]),
                        bool(copies.mirrored[place]),
                    )
                )
            advance()
        return found

    def candidates(self) -> list[str]:
        """Returns the unlabeled photos that are no near-duplicates of labeled ones."""
        photos = self._photos.paths
        return [photos[place] for place in self._places[UNLABELED][self._is_new()].tolist()]

    def choose(self, count: int, uncertainty: np.ndarray | None = None) -> Selection:
        """Chooses unlabeled photos to label; see :func:`.choice.choose_diverse`.

        Args:
            count: Number of photos to choose.
            uncertainty: How unsure a detector is of each of ``candidates()``, in bits, in 0..1.
        """
        is_new = self._is_new()
        places = self._places[UNLABELED][is_new]
        labeled = [rows for split, rows in self._places.items() if split != UNLABELED]
        thumbnails = self._photos.thumbnails
        mirrored = thumbnails.mirror()

        def is_copy(photo: int, chosen: list[int]) -> bool:
            if not chosen:
                return False
            pixels = thumbnails[places[[photo]]][0]
            others = places[chosen]
            both = torch.stack((thumbnails[others] @ pixels, mirrored[others] @ pixels))
            return bool(both.max() >= MIN_CORRELATION)

        choice = choose_diverse(
            self._directions(places),
            count,
            self._directions(np.concatenate(labeled)) if labeled else None,
            uncertainty,
            is_copy,
            self._device,
        )
        return Selection(
            [self._photos.paths[place] for place in places[choice.index].tolist()],
            choice.distance,
            None if uncertainty is None else uncertainty[choice.index],
            int((~is_new).sum()),
            choice.skipped,
        )

    def _is_new(self) -> np.ndarray:
        """Returns which of the unlabeled photos are no near-duplicates of labeled ones."""
        is_new = np.ones(len(self._places[UNLABELED]), dtype=bool)
        for split in self._places:
            if split != UNLABELED:
                is_new[self._copies_of(UNLABELED, split).found] = False
        return is_new

    def _copies_of(self, split: str, of_split: str) -> Copies:
        """Returns the near-duplicates of a split among the photos of another or the same one."""
        key = split, of_split
        if key not in self._copies:
            photos, references = self._places[split], self._places[of_split]
            candidates = nearest(
                self._directions(photos),
                self._directions(references),
                NUM_CANDIDATES,
                only_earlier=split == of_split,
                device=self._device,
            )
            thumbnails = self._photos.thumbnails
            self._copies[key] = find_copies(
                thumbnails.of(photos), thumbnails.of(references), candidates.index
            )
        return self._copies[key]

    def _directions(self, places: np.ndarray) -> Directions:
        return Directions(self._photos, self._centre, places)

    def _path(self, split: str, place: int) -> str:
        return self._photos.paths[self._places[split][place]]
