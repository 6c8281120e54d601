"""Strict reading of COCO annotation files, and what their names and boxes mean."""

from __future__ import annotations

import json
import os
import posixpath
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..wording import name_some

# A larger number is a mistake, and arithmetic with it may overflow.
_LARGEST = 1e12


@dataclass(frozen=True)
class CocoFile:
    """The content of a COCO annotation file, every entry checked.

    Attributes:
        path: The file.
        images: Dicts with ``id``, ``file_name``, ``width`` and ``height`` in pixels.
        categories: Dicts with ``id`` and ``name``.
        annotations: Dicts with ``id``, ``image_id``, ``category_id`` and ``bbox`` as ``x, y, w, h``
            in pixels. ``area`` in square pixels and ``iscrowd`` may be missing; see
            :func:`complete_annotation`. ``None`` if the file has no annotations at all, like those
            of test sets whose annotations are not published.
    """

    path: str
    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    annotations: list[dict[str, Any]] | None

    @property
    def category_names(self) -> list[str]:
        """Names in the order of the file, in which mmdet's ``CocoDataset`` numbers labels."""
        return [category['name'] for category in self.categories]


def complete_annotation(annotation: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy of an annotation with ``area`` and ``iscrowd`` filled in where missing.

    The default area is that of the box, and the default of ``iscrowd`` is 0.
    """
    width, height = annotation['bbox'][2:]
    return {'area': width * height, 'iscrowd': 0, **annotation}


def category_ids(coco: CocoFile, classes: Sequence[str]) -> list[Any]:
    """Returns the category id of every class, found by name.

    Raises:
        InputError: If a class is not exactly one of the categories.
    """
    counts = Counter(coco.category_names)
    missing = [name for name in classes if not counts[name]]
    if missing:
        raise InputError(
            f"the classes {missing} are not among the categories of '{coco.path}', which are "
            f'{coco.category_names}; set metainfo.classes to some of these'
        )
    repeated = [name for name in classes if counts[name] > 1]
    if repeated:
        raise InputError(
            f"'{coco.path}' has more than one category named {name_some(repeated)}; merge them"
        )
    ids = {category['name']: category['id'] for category in coco.categories}
    return [ids[name] for name in classes]


def leaves_folder(folder: str, file_name: str) -> bool:
    """Returns whether a file name leads out of the folder that it is relative to.

    Absolute names, ``..`` and URLs may do so. Links inside the folder are not followed: they are up
    to its owner.
    """
    if '://' in file_name or '\0' in file_name:
        return True
    # Of a folder on a server too, `..` removes one part after the other.
    root = posixpath.normpath(folder or '.')
    path = posixpath.normpath(posixpath.join(folder or '.', file_name))
    if root == '.':
        return path == '..' or path.startswith(('../', '/'))
    return path != root and not path.startswith(root.rstrip('/') + '/')


def read_coco_file(path: str) -> CocoFile:
    """Reads a local COCO annotation file and checks every entry.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is not JSON, or not in COCO's format.
    """
    if not os.path.isfile(path):
        what = 'is a folder, not a file' if os.path.isdir(path) else 'does not exist'
        raise FileNotFoundError(f"annotation file '{path}' {what}")
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"annotation file '{path}' is not valid JSON ({error}); export or download it again"
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"annotation file '{path}' must hold a dict with 'images', 'annotations' and "
            f"'categories', but holds a {type(content).__name__}; convert it to COCO's format"
        )
    for section in ('images', 'categories'):
        if section not in content:
            raise InputError(
                f"annotation file '{path}' lacks the key '{section}' of a COCO file (it has "
                f"{', '.join(map(repr, content)) or 'no keys'}); convert it to COCO's format"
            )
    for section in _FIELDS.keys() & content.keys():
        _check_entries(path, section, content[section])
    return CocoFile(path, content['images'], content['categories'], content.get('annotations'))


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    # Unlike math.isfinite, a comparison takes whole numbers of any size.
    return type(value) in (int, float) and -_LARGEST < value < _LARGEST


def _is_length(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_flag(value: Any) -> bool:
    return isinstance(value, int) and value in (0, 1)


@dataclass(frozen=True)
class _Field:
    """What a value of an entry must be."""

    accepts: Callable[[Any], bool]
    expected: str
    required: bool = True


_ID = _Field(_is_id, 'a whole number or a string')
_FIELDS = {
    'images': dict(
        id=_ID,
        file_name=_Field(_is_name, 'a name'),
        width=_Field(_is_length, 'a positive number'),
        height=_Field(_is_length, 'a positive number'),
    ),
    'categories': dict(id=_ID, name=_Field(_is_name, 'a name')),
    'annotations': dict(
        id=_ID,
        image_id=_ID,
        category_id=_ID,
        bbox=_Field(_is_box, 'four finite numbers x, y, width, height'),
        area=_Field(_is_number, 'a finite number', required=False),
        iscrowd=_Field(_is_flag, '0 or 1', required=False),
        ignore=_Field(_is_flag, '0 or 1', required=False),
    ),
}


_REQUIRED = {
    section: {name for name, field in fields.items() if field.required}
    for section, fields in _FIELDS.items()
}


def _problem(section: str, index: int, entry: Any) -> str:
    """Returns what is wrong with an entry, or an empty string."""
    required = _REQUIRED[section]
    if not isinstance(entry, dict) or not required <= entry.keys():
        missing = required - entry.keys() if isinstance(entry, dict) else required
        return (
            f'lacks {", ".join(map(repr, sorted(missing)))} in {section}[{index}]; add what is '
            f"missing to every entry of '{section}'"
        )
    for name, field in _FIELDS[section].items():
        if name in entry and not field.accepts(entry[name]):
            return (
                f'has the {name} {entry[name]!r:.100} in {section}[{index}] (id '
                f'{entry["id"]!r:.100}), where {field.expected} is expected; correct or remove it'
            )
    return ''


def _check_entries(path: str, section: str, entries: Any) -> None:
    if not isinstance(entries, list):
        raise InputError(
            f"annotation file '{path}' must have a list as '{section}', but has a "
            f"{type(entries).__name__}; convert it to COCO's format"
        )
    problems = {
        f'{section}[{index}]': problem
        for index, entry in enumerate(entries)
        if (problem := _problem(section, index, entry))
    }
    if problems:
        first, *others = problems
        more = f'; {len(others)} more such entries: {name_some(others)}' if others else ''
        raise InputError(f"annotation file '{path}' {problems[first]}{more}")
    counts = Counter(entry['id'] for entry in entries)
    repeated = [key for key, count in counts.items() if count > 1]
    if repeated:
        raise InputError(
            f"annotation file '{path}' has {len(repeated)} ids more than once in '{section}', "
            f'first {repeated[0]!r}; give every entry an id of its own'
        )
