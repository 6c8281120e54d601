"""What the log of a run says about the pseudo-labels of unlabeled photos."""

from __future__ import annotations

from dataclasses import dataclass

from .run_log import RunLog

# What names in the log begin with, and those of boxes per photo and of labels per image by class.
LOGGED, BOXES, LABELS = 'pseudo/', 'boxes/', 'labels/'


@dataclass(frozen=True)
class PseudoLabels:
    """The last report of a run on its pseudo-labels.

    Attributes:
        step: Optimizer step of the log record.
        photos: Share of the photos with sure boxes, 0 to 1.
        unsure_boxes: Unsure boxes per photo.
        agreement: F1 of sure boxes on labeled images, 0 to 1; None if it was not compared.
        collapsed: Whether the run said that they had collapsed.
        classes: Name, sure boxes per photo and labels per image of each class.
    """

    step: int
    photos: float
    unsure_boxes: float
    agreement: float | None
    collapsed: bool
    classes: tuple[tuple[str, float, float], ...]


def last_pseudo_labels(run: RunLog) -> PseudoLabels | None:
    """Returns the last report in a log; None if the run had no unlabeled photos."""
    for record in reversed(run.training):
        values = {
            key.removeprefix(LOGGED): value
            for key, value in record.items()
            if key.startswith(LOGGED)
        }
        if 'photos' in values:
            break
    else:
        return None
    names = [key.removeprefix(BOXES) for key in values if key.startswith(BOXES)]
    return PseudoLabels(
        step=int(record['iter']),
        photos=values['photos'],
        unsure_boxes=values.get('unsure_boxes', 0.0),
        agreement=values.get('agreement'),
        collapsed=bool(values.get('collapsed')),
        classes=tuple(
            (name, values[f'{BOXES}{name}'], values.get(f'{LABELS}{name}', 0.0)) for name in names
        ),
    )
