"""The label files of YOLO: lines of a class and a box, polygon, oriented box or pose."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ..text_file import read_text

# Labels are written with 6 digits, so that sums of them may leave the image by rounding.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class LabelFormat:
    """What the lines of a dataset mean.

    Attributes:
        classes: The class numbers.
        key_points: Number of key points after the box, and of values for each, as ``kpt_shape``
            says; ``None`` if there are none.
    """

    classes: Collection[int]
    key_points: tuple[int, int] | None = None


@dataclass(frozen=True)
class Label:
    """One line.

    Attributes:
        number: The class number.
        corners: ``x1, y1, x2, y2`` as fractions of the image, not cut at its border.
        kind: ``'box'``, ``'pose'``, ``'polygon'``, or ``'oriented'`` for four points.
        values: The numbers after the class.
    """

    number: int
    corners: tuple[float, float, float, float]
    kind: str
    values: tuple[float, ...]

    @property
    def is_cut(self) -> bool:
        """Whether the box extends beyond the image by more than rounding."""
        return min(self.corners) < -TOLERANCE or max(self.corners) > 1 + TOLERANCE

    @property
    def outline(self) -> tuple[float, ...]:
        """The polygon as ``x, y, x, y, ...``, fractions of the image; empty if there is none."""
        return self.values if self.kind in ('polygon', 'oriented') else ()

    def clipped(self) -> tuple[float, float, float, float]:
        """Returns ``x, y, width, height`` of the part inside the image, as fractions of it."""
        x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in self.corners)
        return x1, y1, x2 - x1, y2 - y1


def read_labels(path: Path, form: LabelFormat) -> list[Label]:
    """Reads a label file.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If a line cannot be used.
    """
    rows = ((n, line.split()) for n, line in enumerate(read_text(path).splitlines(), start=1))
    return [_read_line(path, number, row, form) for number, row in rows if row]


def looks_like_labels(path: Path) -> bool:
    """Returns whether the first line of a text file is one of a label file."""
    try:
        words = read_text(path).split('\n', 1)[0].split()
        return len(words) >= 5 and all(math.isfinite(float(word)) for word in words)
    except (InputError, OSError, ValueError):
        return False


def look_like_corners(labels: Sequence[Label]) -> bool:
    """Returns whether boxes look like ``x1, y1, x2, y2`` instead of centre and size.

    They do if all of them are boxes inside the image as corners, and most would extend beyond it
    as centre and size.
    """
    boxes = [label for label in labels if label.kind == 'box']
    return (
        bool(boxes)
        and all(map(could_be_corners, boxes))
        and 2 * sum(box.is_cut for box in boxes) > len(boxes)
    )


def could_be_corners(label: Label) -> bool:
    """Returns whether the numbers of a box are those of corners inside the image, too."""
    x1, y1, x2, y2 = label.values
    return 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1


def _read_line(path: Path, number: int, row: Sequence[str], form: LabelFormat) -> Label:
    where, found = f'{path}, line {number}', f'found {" ".join(row)[:80]!r}'
    try:
        class_number, *values = (float(word) for word in row)
    except ValueError:
        class_number, values = math.nan, []
    if not all(map(math.isfinite, (class_number, *values))) or len(values) < 4:
        raise InputError(f"{where}: expected 'class x y width height' or a polygon, {found}")
    kind = _kind_of(values, form, where, found)
    if class_number not in form.classes:
        raise InputError(
            f"{where}: the class must be {_list_numbers(form.classes)}, as 'names' of the data "
            f'file says, but is {row[0]}'
        )
    if kind in ('box', 'pose'):
        x, y, w, h = values[:4]
        corners = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    else:
        xs, ys = values[0::2], values[1::2]
        corners = min(xs), min(ys), max(xs), max(ys)
    x1, y1, x2, y2 = corners
    inside = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
    if any(not -TOLERANCE <= value <= 1 + TOLERANCE for value in inside):
        raise InputError(
            f'{where}: coordinates must be fractions of width and height between 0 and 1, {found}'
        )
    return Label(int(class_number), corners, kind, tuple(values))


def _kind_of(values: Sequence[float], form: LabelFormat, where: str, found: str) -> str:
    count = len(values)
    if form.key_points is not None:
        points, dimensions = form.key_points
        if count in (4, 4 + points * dimensions):
            return 'pose' if count > 4 else 'box'
        raise InputError(
            f'{where}: expected a class, a box and {points} key points of {dimensions} numbers '
            f"({5 + points * dimensions} in all), as 'kpt_shape' of the data file says, but there "
            f'are {count + 1}: {found}'
        )
    if count == 4:
        return 'box'
    if count == 5:
        raise InputError(
            f"{where}: expected 'class x y width height' or a polygon, {found}; a sixth number is "
            'the confidence where a model has written the labels, or an angle: export boxes '
            'without it'
        )
    flags = values[6::3]
    # No coordinate of a polygon is 2, which says that a key point is visible.
    if count % 3 == 1 and 2 in flags and all(flag in (0, 1, 2) for flag in flags):
        raise InputError(
            f"{where}: these look like key points, but the data file has no 'kpt_shape', {found}; "
            f'add kpt_shape: [{(count - 4) // 3}, 3] to it'
        )
    if count % 2:
        raise InputError(f"{where}: expected 'class x y width height' or a polygon, {found}")
    return 'oriented' if count == 8 else 'polygon'


def _list_numbers(numbers: Collection[int]) -> str:
    numbers = sorted(numbers)
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f'{numbers[0]} to {numbers[-1]}' if len(numbers) > 1 else str(numbers[0])
    shown = ', '.join(map(str, numbers[:10]))
    return f'one of {shown}{", ..." if len(numbers) > 10 else ""}'
