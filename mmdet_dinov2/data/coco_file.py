"""Strict reading of COCO annotation files, and what their names and boxes mean."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import InputError
from ..wording import name_some
from .segmentation_boxes import box_around
from .text_file import read_json

# A larger number is a mistake, and arithmetic with it may overflow.
LARGEST = 1e12
# The field of each section that others can say.
DERIVED = dict(images='file_name', annotations='bbox')


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
        derived: Numbers of entries whose ``'bbox'`` comes from their segmentation, or whose
            ``'file_name'`` from their ``coco_url``.
    """

    path: str
    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    annotations: list[dict[str, Any]] | None
    derived: Counter[str] = field(default_factory=Counter)

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


def read_coco_file(path: str, sizes: bool = True) -> CocoFile:
    """Reads a local COCO annotation file and checks every entry.

    A ``bbox`` that is missing or empty is the box around the segmentation, and a ``file_name`` that
    is missing is the path of the ``coco_url``, as in LVIS.

    Args:
        path: The file.
        sizes: Whether the entries of images need ``width`` and ``height``; without, these may be
            missing, ``None`` or 0.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is not JSON, or not in COCO's format.
    """
    if not os.path.isfile(path):
        what = 'is a folder, not a file' if os.path.isdir(path) else 'does not exist'
        raise FileNotFoundError(f"annotation file '{path}' {what}")
    content = read_json(Path(path))
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
    derived: Counter[str] = Counter()
    for section in ('images', 'categories', 'annotations'):
        if section in content:
            entries = content[section]
            check_section(path, section, entries)
            count = derive_fields(section, entries)
            if count:
                derived[DERIVED[section]] = count
            raise_problems(path, find_problems(section, entries, 0, sizes))
            check_unique(path, section, [entry['id'] for entry in entries])
    return CocoFile(
        path, content['images'], content['categories'], content.get('annotations'), derived
    )


def derive_fields(section: str, entries: Sequence[Any]) -> int:
    """Fills in boxes and file names that other fields of entries say; returns how many."""
    derive = {'images': _derive_file_name, 'annotations': _derive_box}.get(section)
    if derive is None:
        return 0
    return sum(derive(entry) for entry in entries if isinstance(entry, dict))


def _derive_file_name(image: dict[str, Any]) -> bool:
    url = image.get('coco_url')
    if image.get('file_name') or not isinstance(url, str) or not url:
        return False
    image['file_name'] = unquote(urlsplit(url).path).lstrip('/')
    return True


def _derive_box(annotation: dict[str, Any]) -> bool:
    box = annotation.get('bbox')
    if box and box != [0, 0, 0, 0]:
        return False
    around = box_around(annotation.get('segmentation'))
    if around is None or around == box:
        return False
    annotation['bbox'] = around
    return True


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    # Unlike math.isfinite, a comparison takes whole numbers of any size.
    return type(value) in (int, float) and -LARGEST < value < LARGEST


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


_OPTIONAL_LENGTH = _Field(
    lambda value: value in (None, 0) or _is_length(value), 'a positive number', required=False
)
# Of entries of images; in pixels.
SIZE_KEYS = ('width', 'height')
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


def _problem(
    section: str, index: int, entry: Any, fields: dict[str, _Field], required: set[str]
) -> str:
    """Returns what is wrong with an entry, or an empty string."""
    if not isinstance(entry, dict) or not required <= entry.keys():
        missing = required - entry.keys() if isinstance(entry, dict) else required
        return (
            f'lacks {", ".join(map(repr, sorted(missing)))} in {section}[{index}]; add what is '
            f"missing to every entry of '{section}'"
        )
    for name, rule in fields.items():
        if name in entry and not rule.accepts(entry[name]):
            return (
                f'has the {name} {entry[name]!r:.100} in {section}[{index}] (id '
                f'{entry["id"]!r:.100}), where {rule.expected} is expected; correct or remove it'
            )
    return ''


def find_problems(
    section: str, entries: Sequence[Any], first: int = 0, sizes: bool = True
) -> dict[str, str]:
    """Returns what is wrong with entries of a section.

    Args:
        section: ``'images'``, ``'categories'`` or ``'annotations'``.
        entries: Entries of the section.
        first: Position of the first of them.
        sizes: Whether images need ``width`` and ``height``; without, these may be missing, ``None``
            or 0.

    Returns:
        The ends of sentences by the place of the entry, such as ``images[7]``.
    """
    fields = _FIELDS[section]
    if section == 'images' and not sizes:
        fields = {**fields, **dict.fromkeys(SIZE_KEYS, _OPTIONAL_LENGTH)}
    required = {name for name, rule in fields.items() if rule.required}
    return {
        f'{section}[{index}]': problem
        for index, entry in enumerate(entries, start=first)
        if (problem := _problem(section, index, entry, fields, required))
    }


def raise_problems(path: str, problems: Mapping[str, str]) -> None:
    """Raises the first of several problems of a file, if there are any.

    Raises:
        InputError: With the places of others.
    """
    if problems:
        first, *others = problems
        more = f'; {len(others)} more such entries: {name_some(others)}' if others else ''
        raise InputError(f"annotation file '{path}' {problems[first]}{more}")


def check_section(path: str, section: str, content: Any) -> None:
    """Checks that a section of a file is a list.

    Raises:
        InputError: If it is not.
    """
    if not isinstance(content, list):
        raise InputError(
            f"annotation file '{path}' must have a list as '{section}', but has a "
            f"{type(content).__name__}; convert it to COCO's format"
        )


def check_unique(path: str, section: str, ids: Iterable[int | str]) -> None:
    """Checks that no id of a section is there twice.

    Raises:
        InputError: If one is.
    """
    counts = Counter(ids)
    repeated = [key for key, count in counts.items() if count > 1]
    if repeated:
        raise InputError(
            f"annotation file '{path}' has {len(repeated)} ids more than once in '{section}', "
            f'first {repeated[0]!r}; give every entry an id of its own'
        )
