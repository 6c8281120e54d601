"""Finds datasets of labelme: a JSON file of shapes for each picture.

X-AnyLabeling writes the same files.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..data_folder import DataFolder
from ..text_file import read_json
from .found import FoundData, Remarks
from .json_kinds import json_kind
from .per_picture import NamedBox, PictureFile, found_pictures

FORMAT = 'labelme'
# Shapes that have no area.
_WITHOUT_AREA = ('point', 'points', 'line', 'linestrip')


def find(folder: DataFolder) -> FoundData | None:
    """Finds a dataset of labelme.

    Splits are those of folders, else all pictures are for training. Shapes become the boxes around
    them.

    Raises:
        InputError: If a file cannot be used, or no picture is found.
    """
    paths = [path for path in folder.with_suffix('.json') if json_kind(path) == 'labelme']
    if not paths:
        return None
    remarks, skipped, others = Remarks(), Counter(), Counter()
    files = [_read(path, skipped, others) for path in paths]
    if skipped:
        listed = ', '.join(f'{count} of type {kind!r}' for kind, count in skipped.items())
        remarks.warnings.append(f'shapes without an area are not used: {listed}')
    if others:
        listed = ', '.join(f'{count} of type {kind!r}' for kind, count in others.items())
        remarks.notes.append(f'the boxes around shapes are used: {listed}')
    return found_pictures(FORMAT, folder, files, remarks)


def _read(path: Path, skipped: Counter[str], others: Counter[str]) -> PictureFile:
    content = read_json(path)
    boxes = []
    for index, shape in enumerate(content['shapes']):
        if not isinstance(shape, Mapping) or not isinstance(shape.get('label'), str):
            raise InputError(
                f"{path}, shape {index + 1}: expected a dict with 'label' and 'points'; correct or "
                'remove it'
            )
        kind = str(shape.get('shape_type') or 'polygon')
        if kind in _WITHOUT_AREA:
            skipped[kind] += 1
            continue
        if kind != 'rectangle':
            others[kind] += 1
        boxes.append(_box(path, index, shape, kind))
    size = content.get('imageWidth'), content.get('imageHeight')
    usable = all(type(side) in (int, float) and side > 0 for side in size)
    name = content.get('imagePath')
    return PictureFile(path, name if isinstance(name, str) else '', size if usable else None, boxes)


def _box(path: Path, index: int, shape: Mapping[str, Any], kind: str) -> NamedBox:
    points = shape.get('points')
    if not _are_points(points) or len(points) < 2:
        raise InputError(
            f'{path}, shape {index + 1} ({shape["label"]}): expected a list of at least two points '
            f'x, y, found {points!r:.80}; correct or remove it'
        )
    xs, ys = zip(*points, strict=True)
    if kind == 'circle':  # the centre and a point of the edge
        radius = math.dist(*points[:2])
        xs, ys = (xs[0] - radius, xs[0] + radius), (ys[0] - radius, ys[0] + radius)
    x, y = min(xs), min(ys)
    return NamedBox(shape['label'], x, y, max(xs) - x, max(ys) - y)


def _are_points(points: Any) -> bool:
    return isinstance(points, list) and all(
        isinstance(point, list)
        and len(point) == 2
        and all(type(value) in (int, float) and math.isfinite(value) for value in point)
        for point in points
    )
