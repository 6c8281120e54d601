"""The files of a prediction, by which its output is told from data."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

RESULTS, IMAGES, TABLE = 'predictions.json', 'images.json', 'predictions.csv'
PICTURES = 'pictures'
_DESCRIPTION = 'predictions of mmdet_dinov2'


def file_info(has_pictures: bool) -> dict[str, Any]:
    """Returns the ``info`` of ``images.json``, by which the output is known.

    Args:
        has_pictures: Whether the pictures beside the file were drawn by a prediction.
    """
    return dict(description=_DESCRIPTION, pictures=PICTURES if has_pictures else None)


def images_head(has_pictures: bool) -> str:
    """Returns the beginning of ``images.json``."""
    return f'{{"info": {json.dumps(file_info(has_pictures))}'


def holds_drawn_pictures(out: str | os.PathLike) -> bool | None:
    """Returns whether the pictures in an output folder were drawn by a prediction.

    ``None`` if the folder does not say it: there is no ``images.json``, or one of an earlier
    version or of somebody else.
    """
    try:
        with Path(out, IMAGES).open('rb') as file:
            start = file.read(len(images_head(True)) + 10)
    except OSError:
        return None
    for answer in (True, False):
        if start.startswith(images_head(answer).encode()):
            return answer
    return None


def output_names(folder: str | os.PathLike) -> frozenset[str]:
    """Returns the files and folders that a prediction wrote into a folder, which are no data.

    Boxes that it wrote to be learned from (``predict --as-annotations``) are not among them.
    """
    drawn = holds_drawn_pictures(folder)
    if drawn is None:
        return frozenset()
    return frozenset((RESULTS, IMAGES, TABLE, *((PICTURES,) if drawn else ())))
