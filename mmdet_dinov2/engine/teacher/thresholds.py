"""Which boxes of a teacher are sure, which are unsure, by thresholds that follow the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.predicted_boxes import one_box_per_object
from ...errors import InputError

# Detections with lower scores are background for sure.
FLOOR = 0.05
# Side in pixels below which a box is no object.
_SMALLEST_SIDE = 1.0
_BINS = 200
# A threshold above would let nothing pass where scores are close to 1.
_HIGHEST = 0.95
# Photos that the thresholds remember, more or less.
_HORIZON = 1000.0


@dataclass(frozen=True)
class TeacherBoxes:
    """Detections of a teacher in one photo, on the host.

    Attributes:
        boxes: Boxes (x1, y1, x2, y2) in pixels, (N, 4), fp32.
        scores: Their scores, 0 to 1, (N,).
        labels: Their classes, (N,).
        rows: Their places in the predictions of the model, (N,).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    rows: Tensor

    @classmethod
    def of(cls, boxes: Tensor, scores: Tensor, labels: Tensor) -> TeacherBoxes:
        """Keeps detections that may be objects, one for each object.

        Args:
            boxes: (n, 4).
            scores: (n,).
            labels: (n,); classes below 0 are left out.
        """
        sides = boxes[:, 2:] - boxes[:, :2]
        usable = (scores >= FLOOR) & (labels >= 0) & (sides >= _SMALLEST_SIDE).all(1)
        rows = torch.nonzero(usable).flatten()
        rows = rows[one_box_per_object(boxes[rows], scores[rows])]
        return cls(boxes[rows], scores[rows], labels[rows], rows)

    def divide(self, sure: np.ndarray, unsure: np.ndarray) -> tuple[TeacherBoxes, Tensor]:
        """Divides the boxes by the thresholds of their classes.

        Args:
            sure: Lowest score of a sure box of each class, (classes,).
            unsure: Lowest score of a box that may be an object, likewise.

        Returns:
            The sure boxes, and the unsure ones as (x1, y1, x2, y2), (n, 4).
        """
        labels = self.labels.numpy()
        scores = self.scores.double().numpy()
        is_sure = torch.from_numpy(scores >= sure[labels])
        is_unsure = torch.from_numpy(scores >= unsure[labels]) & ~is_sure
        kept = (values[is_sure] for values in (self.boxes, self.scores, self.labels, self.rows))
        return TeacherBoxes(*kept), self.boxes[is_unsure]


class ClassThresholds:
    """Thresholds for which each class has as many pseudo-boxes as its labels promise.

    With the labels, a class has some boxes per photo. Of the detections in unlabeled photos, the
    best ones are sure, ``sure_share`` times as many, and the next best ones are unsure, up to
    ``unsure_share`` times as many. The thresholds are the scores at these ranks (LabelMatch,
    arXiv:2206.06608, which recomputes them from time to time over all photos). Here the scores of
    the last 1000 photos or so are remembered, as a histogram of each class that fades.

    Args:
        expected: Labeled boxes of each class per photo, (classes,).
        sure_share: Share of the expected boxes that are sure, above 0.
        unsure_share: Share of them that are sure or unsure, at least ``sure_share``.
        min_score: No box below this score is sure, 0 to 1.

    Raises:
        InputError: If an argument is out of range.
    """

    def __init__(
        self, expected: Sequence[float], sure_share: float, unsure_share: float, min_score: float
    ) -> None:
        if not 0 < sure_share <= unsure_share:
            raise InputError(
                'unlabeled.sure_share must be above 0 and at most unlabeled.unsure_share, but '
                f'they are {sure_share!r} and {unsure_share!r}'
            )
        if not FLOOR <= min_score <= _HIGHEST:
            raise InputError(
                f'unlabeled.min_score must be {FLOOR} to {_HIGHEST}, but is {min_score!r}'
            )
        self.expected = np.asarray(expected, dtype=np.float64)
        self._shares = sure_share, unsure_share
        self._min_score = min_score
        self._histogram = np.zeros((len(self.expected), _BINS))
        self._num_photos = 0.0

    def count(self, photos: Sequence[TeacherBoxes]) -> np.ndarray:
        """Counts the scores of photos, for :meth:`add`.

        Returns:
            Number of boxes of each class and score, (classes * bins + 1,) float64, whose last entry
            is the number of photos. Those of several processes add up.
        """
        counts = np.zeros((len(self.expected), _BINS))
        for photo in photos:
            bins = (photo.scores.double().numpy() * _BINS).astype(int).clip(max=_BINS - 1)
            np.add.at(counts, (photo.labels.numpy(), bins), 1)
        return np.append(counts.ravel(), len(photos))

    def add(self, counts: np.ndarray) -> None:
        """Remembers the scores of the photos of a step, of all processes."""
        *boxes, num_photos = counts
        kept = max(0.0, 1 - num_photos / _HORIZON)
        self._histogram = kept * self._histogram + np.reshape(boxes, self._histogram.shape)
        self._num_photos = kept * self._num_photos + num_photos

    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the lowest scores of sure boxes and of unsure ones of each class, (classes,)."""
        sure, unsure = (
            self._score_at(share * self.expected * self._num_photos) for share in self._shares
        )
        sure = sure.clip(self._min_score, _HIGHEST)
        return sure, unsure.clip(FLOOR, sure)

    def _score_at(self, ranks: np.ndarray) -> np.ndarray:
        """Returns the lowest score from which on a class has no more boxes than some rank."""
        from_score = self._histogram[:, ::-1].cumsum(1)[:, ::-1]
        return (from_score > ranks[:, None]).sum(1) / _BINS

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint has to hold."""
        return dict(
            expected=torch.from_numpy(self.expected.copy()),
            histogram=torch.from_numpy(self._histogram.copy()),
            num_photos=float(self._num_photos),
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a checkpoint.

        Raises:
            InputError: If it is that of a different number of classes.
        """
        histogram = state['histogram'].numpy()
        if histogram.shape != self._histogram.shape:
            raise InputError(
                f'the thresholds of the teacher in the checkpoint are those of {len(histogram)} '
                f'classes, but this run has {len(self.expected)}'
            )
        # The transforms, and with them the boxes of a view, may have been switched since.
        self.expected = state['expected'].numpy().copy()
        self._histogram = histogram.copy()
        self._num_photos = state['num_photos']
