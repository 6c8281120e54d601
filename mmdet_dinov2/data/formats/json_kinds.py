"""What a JSON file holds, from its keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from ...errors import InputError
from ..text_file import read_json

Kind = Literal['coco', 'labelme', 'other', 'broken']

_SECTIONS = ('images', 'annotations', 'categories')
# Of a larger file only the beginning is read, if that is enough.
_BEGINNING = 1 << 16
_LISTS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')


def is_predicted(path: Path) -> bool:
    """Returns whether a file has the name of boxes that a detector predicted."""
    return path.suffix.lower() == '.json' and path.stem.lower().startswith('predicted')


def json_kind(path: Path) -> Kind:
    """Returns what a JSON file holds.

    Returns:
        ``'coco'`` for images and annotations in COCO's format, ``'labelme'`` for the shapes of one
        picture, ``'broken'`` if it is not JSON, ``'other'`` for anything else, such as results.
    """
    with path.open('rb') as file:
        beginning = file.read(_BEGINNING)
    if len(beginning) == _BEGINNING and beginning.lstrip(b'\xef\xbb\xbf \t\r\n').startswith(b'{'):
        if _LISTS.search(beginning):
            return 'coco'
        if b'"shapes"' in beginning:
            return 'labelme'
    try:
        return _kind_of(read_json(path))
    except InputError:
        return 'broken'


def _kind_of(content: Any) -> Kind:
    if not isinstance(content, dict):
        return 'other'
    if isinstance(content.get('shapes'), list):
        return 'labelme'
    # Sections of another type are named by the strict reading.
    return 'coco' if sum(section in content for section in _SECTIONS) > 1 else 'other'
