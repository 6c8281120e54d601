"""Finds datasets of labelme: a JSON file of shapes for each picture.

X-AnyLabeling writes the same files.
"""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import InputError
from ...mask_outlines import mask_polygons
from ..data_folder import DataFolder
from ..segmentation_boxes import is_number
from ..text_file import read_json
from .found import FoundData, Remarks
from .json_kinds import json_kind
from .per_picture import NamedBox, PictureFile, found_pictures

FORMAT = 'labelme'
# Shapes that have no area.
_WITHOUT_AREA = ('point', 'points', 'line', 'linestrip')
# Shapes whose points are their outline.
_OUTLINES = ('polygon', 'rotation')
# Of the polygon that stands for a circle.
_CORNERS = 64


def find(folder: DataFolder) -> FoundData | None:
    """Finds a dataset of labelme.

    Splits are those of folders, else all pictures are for training. Shapes become the boxes around
    them and, but for rectangles, masks.

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
        remarks.notes.append(
            f'the boxes around shapes are used, and with a mask head the shapes too: {listed}'
        )
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
    polygons: list[list[float]] = []
    if kind in _OUTLINES and len(points) > 2:
        polygons = [[value for point in points for value in point]]
    elif kind == 'circle':  # the centre and a point of the edge
        radius = math.dist(*points[:2])
        polygons = [_circle(points[0], radius)]
        xs, ys = (xs[0] - radius, xs[0] + radius), (ys[0] - radius, ys[0] + radius)
    elif kind == 'mask':
        polygons = _painted(path, index, shape)
    x, y = min(xs), min(ys)
    return NamedBox(shape['label'], x, y, max(xs) - x, max(ys) - y, polygons)


def _circle(centre: Sequence[float], radius: float) -> list[float]:
    angles = np.arange(_CORNERS) * 2 * math.pi / _CORNERS
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius + centre
    return corners.ravel().tolist()


def _painted(path: Path, index: int, shape: Mapping[str, Any]) -> list[list[float]]:
    """Returns the outlines of a mask: a picture of the size of its box, both corners included."""
    (x1, y1), (x2, y2) = shape['points'][:2]
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape['mask'])), formats=['PNG']) as image:
            if max(abs(image.width - (x2 - x1)), abs(image.height - (y2 - y1))) > 1:
                raise ValueError(f'it is {image.width} x {image.height} pixels')
            mask = np.asarray(image.convert('L')) > 0
    except (KeyError, TypeError, ValueError, OSError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path}, shape {index + 1} ({shape['label']}): expected a 'mask' that is a PNG of the "
            f'size of its box, but it cannot be used ({error}); correct or remove it'
        ) from error
    return [
        [value + offset for value, offset in zip(polygon, cycle((x1, y1)), strict=False)]
        for polygon in mask_polygons(mask)
    ]


def _are_points(points: Any) -> bool:
    return isinstance(points, list) and all(
        isinstance(point, list) and len(point) == 2 and all(is_number(value) for value in point)
        for point in points
    )
