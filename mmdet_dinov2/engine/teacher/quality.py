"""What can be said about pseudo-labels without knowing the truth, and signs that they collapsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor

from ...runs.pseudo_labels import BOXES, LABELS
from .thresholds import TeacherBoxes

# Photos with boxes below this share are none, boxes per expected box above this are everything.
_NONE = 0.01
_EVERYTHING = 3.0
# One class has nearly all pseudo-boxes, which it has not among the labels.
_NEARLY_ALL = 0.95
_MOSTLY = 0.8
_FEW_BOXES = 20
_IOU = 0.5


@dataclass(frozen=True)
class PseudoQuality:
    """Pseudo-labels of some steps.

    Attributes:
        num_photos: Number of photos that the teacher has seen.
        num_with_boxes: Number of them with sure boxes.
        boxes: Number of sure boxes of each class.
        num_unsure: Number of unsure boxes.
        agreed: Number of sure boxes on labeled images that have the place and class of a label.
        predicted: Number of sure boxes on labeled images.
        labeled: Number of labels on them.
    """

    num_photos: int
    num_with_boxes: int
    boxes: tuple[int, ...]
    num_unsure: int
    agreed: int
    predicted: int
    labeled: int

    @property
    def share_with_boxes(self) -> float:
        """Share of the photos with sure boxes, 0 to 1."""
        return self.num_with_boxes / max(self.num_photos, 1)

    @property
    def agreement(self) -> float | None:
        """F1 of the sure boxes on labeled images, 0 to 1; None if there were none to compare.

        The student has learned from these labels, so it is an upper limit for other photos.
        """
        total = self.predicted + self.labeled
        return 2 * self.agreed / total if total else None

    def as_dict(self, classes: Sequence[str], expected: Sequence[float]) -> dict[str, float]:
        """Returns what the log of a run has, by name; see ``runs.pseudo_labels``.

        Args:
            classes: Names of the classes.
            expected: Labeled boxes of each class per photo.
        """
        photos = max(self.num_photos, 1)
        values = dict(photos=self.share_with_boxes, unsure_boxes=self.num_unsure / photos)
        if self.agreement is not None:
            values['agreement'] = self.agreement
        for name, count, rate in zip(classes, self.boxes, expected, strict=True):
            values[f'{BOXES}{name}'] = count / photos
            values[f'{LABELS}{name}'] = float(rate)
        return values

    def describe(self, classes: Sequence[str], expected: Sequence[float]) -> str:
        """Describes the pseudo-labels in a line.

        Args:
            classes: Names of the classes.
            expected: Labeled boxes of each class per photo.
        """
        photos = max(self.num_photos, 1)
        of_classes = ', '.join(
            f'{name} {count / photos:.2f} ({rate:.2f})'
            for name, count, rate in zip(classes, self.boxes, expected, strict=True)
        )
        agreement = self.agreement
        agrees = '' if agreement is None else f'; agreement with the labels {agreement:.2f}'
        return (
            f'{self.share_with_boxes:.0%} of {self.num_photos} photos have sure boxes; per photo '
            f'(per labeled image): {of_classes}; unsure {self.num_unsure / photos:.2f}{agrees}'
        )

    def collapse(self, classes: Sequence[str], expected: Sequence[float]) -> str:
        """Says how the pseudo-labels have collapsed; empty if they have not.

        Args:
            classes: Names of the classes.
            expected: Labeled boxes of each class per photo.
        """
        rates, total = np.asarray(expected), sum(self.boxes)
        if self.share_with_boxes < _NONE:
            return (
                f'only {self.num_with_boxes} of {self.num_photos} photos have boxes that the '
                'teacher is sure of, so nothing is learned from the others; lower '
                'unlabeled.min_score, begin later with unlabeled.burn_in, or label more photos'
            )
        wanted = rates.sum() * self.num_photos
        if total > _EVERYTHING * wanted:
            return (
                f'the teacher is sure of {total / max(wanted, 1e-9):.1f} times as many boxes as '
                'the labels have: it sees objects everywhere; begin later with unlabeled.burn_in, '
                'or lower the learning rate'
            )
        most = int(np.argmax(self.boxes))
        if total >= _FEW_BOXES and self.boxes[most] > _NEARLY_ALL * total:
            share = rates[most] / max(rates.sum(), 1e-9)
            if share < _MOSTLY:
                return (
                    f'{self.boxes[most] / total:.0%} of the boxes that the teacher is sure of are '
                    f'{classes[most]!r}, which has {share:.0%} of the labels; begin later with '
                    'unlabeled.burn_in, or label more of the other classes'
                )
        return ''


def count_agreement(found: TeacherBoxes, boxes: Tensor, labels: Tensor) -> int:
    """Counts the detections in an image that have the place and class of a label.

    A label counts once, for the best detection that overlaps it by an IoU of at least 0.5.

    Args:
        found: Detections, the best first.
        boxes: Boxes (x1, y1, x2, y2) of the labels, (T, 4).
        labels: Their classes, (T,).
    """
    if not len(boxes) or not len(found.boxes):
        return 0
    overlaps = bbox_overlaps(found.boxes.float(), boxes.float())
    overlaps[found.labels[:, None] != labels] = 0
    free = torch.ones(len(boxes), dtype=torch.bool)
    for row in overlaps:
        best = int((row * free).argmax())
        if free[best] and row[best] >= _IOU:
            free[best] = False
    return int((~free).sum())


def from_counts(counts: Mapping[str, int], num_classes: int) -> PseudoQuality:
    """Returns the quality that counts by name say; see :class:`TeacherHook`."""
    plain = {name: counts[name] for name in PseudoQuality.__dataclass_fields__ if name != 'boxes'}
    boxes = tuple(counts[f'boxes_{label}'] for label in range(num_classes))
    return PseudoQuality(boxes=boxes, **plain)
