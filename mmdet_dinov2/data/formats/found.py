"""What every format is turned into: pictures and boxes by split, in one form."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import InputError
from ...wording import name_some
from ..annotation_columns import AnnotationColumns
from ..image_header import read_header


@dataclass
class Remarks:
    """What a reader has to say to the user.

    Attributes:
        notes: How the folder was understood, as sentences.
        warnings: What is not used, or may be a mistake, as sentences.
    """

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, other: Remarks) -> None:
        """Adds those of another reader."""
        self.notes += other.notes
        self.warnings += other.warnings


class PictureBox(NamedTuple):
    """A box in pixels, the label of its class, from 0, and its mask.

    The mask is polygons ``x, y, x, y, ...`` in pixels; there are none if it is not known.
    """

    label: int
    x: float
    y: float
    width: float
    height: float
    polygons: Sequence[Sequence[float]] = ()


@dataclass(frozen=True)
class Picture:
    """A picture and its boxes.

    Attributes:
        path: Absolute path.
        size: ``(width, height)`` in pixels, as the boxes assume it.
        boxes: Its boxes.
    """

    path: Path
    size: tuple[float, float]
    boxes: Sequence[PictureBox]


@dataclass(frozen=True)
class FoundSplit:
    """One split, before it is read.

    Attributes:
        folder: Folder that holds the pictures.
        origin: What the boxes are read from, such as ``the YOLO labels of data.yaml``.
        read: Returns the content of a COCO annotation file, with file names relative to
            ``folder``, and remarks. ``None`` if ``coco`` can be used as it is.
        fingerprint: Text that changes when that content does.
        coco: A COCO annotation file of the user that needs no change.
    """

    folder: Path
    origin: str
    read: Callable[[], tuple[dict[str, Any], Remarks]] | None = None
    fingerprint: str = ''
    coco: AnnotationColumns | None = None


@dataclass(frozen=True)
class FoundData:
    """A dataset that a reader has found in a folder.

    Attributes:
        format: Name of the format.
        classes: Class names, in the order of the labels.
        splits: Its splits, by 'train', 'val' and 'test'.
        remarks: What the reader has to say about the whole.
    """

    format: str
    classes: tuple[str, ...]
    splits: dict[str, FoundSplit]
    remarks: Remarks = field(default_factory=Remarks)


def coco_content(
    pictures: Iterable[Picture], classes: Sequence[str], folder: Path
) -> dict[str, Any]:
    """Returns pictures and boxes as the content of a COCO annotation file."""
    images, annotations = [], []
    for image_id, picture in enumerate(pictures, start=1):
        name = picture.path.relative_to(folder).as_posix()
        width, height = picture.size
        images.append(dict(id=image_id, file_name=name, width=width, height=height))
        for label, x, y, w, h, polygons in picture.boxes:
            annotation = dict(
                id=len(annotations) + 1,
                image_id=image_id,
                category_id=label + 1,
                bbox=[x, y, w, h],
                area=w * h,
                iscrowd=0,
            )
            if polygons:
                annotation['segmentation'] = [list(polygon) for polygon in polygons]
                # One without an area would cost the box.
                annotation['area'] = sum(map(_area, polygons)) or w * h
            annotations.append(annotation)
    categories = [dict(id=label + 1, name=name) for label, name in enumerate(classes)]
    return dict(images=images, annotations=annotations, categories=categories)


def _area(polygon: Sequence[float]) -> float:
    """Returns the area of a polygon without crossings, in square pixels."""
    x, y = np.reshape(polygon, (-1, 2)).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def split_of_pictures(
    pictures: Sequence[Picture], classes: Sequence[str], origin: str
) -> FoundSplit:
    """Returns the split of pictures that have been read already."""
    folder = common_folder(picture.path for picture in pictures)
    content = coco_content(pictures, classes, folder)
    return FoundSplit(folder, origin, lambda: (content, Remarks()), fingerprint(content))


def common_folder(files: Iterable[Path]) -> Path:
    """Returns the innermost folder that holds all files."""
    return Path(os.path.commonpath([file.parent for file in files]))


def fingerprint(*values: Any) -> str:
    """Returns a few characters that change when any of the values does."""
    return hashlib.sha1(repr(values).encode('utf-8', 'surrogateescape')).hexdigest()[:10]


def file_state(path: Path) -> tuple[int, int] | None:
    """Returns what changes when a file is written: its size and time; ``None`` without a file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def upright_size(path: Path) -> tuple[int, int] | None:
    """Returns width and height of a picture as it is shown; ``None`` if it cannot be read."""
    try:
        return read_header(path).shown_size
    except (InputError, OSError):
        return None


def number_classes(names: Iterable[str]) -> dict[str, int]:
    """Returns the label of each class, in the order of their names."""
    return {name: label for label, name in enumerate(sorted(set(names)))}


def example(paths: Sequence[Any], limit: int = 3) -> str:
    """Lists the first of several things in brackets, for messages."""
    return f'({name_some([str(path) for path in paths], limit=limit)})'
