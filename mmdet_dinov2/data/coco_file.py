"""What the entries of COCO annotation files must be, and what their names mean."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from ..errors import InputError
from ..wording import name_some
from .annotation_columns import AnnotationColumns, TextColumn
from .segmentation_boxes import box_around, is_number

# What is in a relative name that leads out of its folder, or is no name.
_MAY_LEAVE = re.compile(rb'\.\.|://|\0')
# The field of each section that others can say.
DERIVED = dict(images='file_name', annotations='bbox')


def complete_annotation(annotation: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy of an annotation with ``area`` and ``iscrowd`` filled in where missing.

    The default area is that of the box, and the default of ``iscrowd`` is 0.
    """
    width, height = annotation['bbox'][2:]
    return {'area': width * height, 'iscrowd': 0, **annotation}


def category_ids(coco: AnnotationColumns, classes: Sequence[str]) -> list[Any]:
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


def names_outside(folder: str, names: TextColumn) -> list[str]:
    """Returns the file names that lead out of the folder that they are relative to.

    See :func:`leaves_folder`.
    """
    starts = np.concatenate([[0], names.ends[:-1]]) if len(names) else names.ends
    absolute = (names.content[starts] == ord('/')).any()  # no name is empty
    if not absolute and not _MAY_LEAVE.search(names.content.data):
        return []
    return [name for name in names if leaves_folder(folder, name)]


def derive_fields(
    section: str,
    entries: Sequence[Any],
    size_of: Callable[[Any], tuple[float, float] | None] = lambda image_id: None,
) -> int:
    """Fills in what other fields of entries say; returns how many.

    Args:
        section: ``'images'``, whose file names are filled in, or ``'annotations'``: their boxes.
        entries: Entries of the section.
        size_of: Returns width and height of the image of an id, ``None`` where they are not known.

    Raises:
        InputError: If run lengths that a box is derived from do not have the size of the image.
    """
    annotated = section == 'annotations'
    return sum(
        _derive_box(entry, size_of) if annotated else _derive_file_name(entry)
        for entry in entries
        if isinstance(entry, dict)
    )


def _derive_file_name(image: dict[str, Any]) -> bool:
    url = image.get('coco_url')
    if image.get('file_name') or not isinstance(url, str) or not url:
        return False
    try:
        image['file_name'] = unquote(urlsplit(url).path).lstrip('/')
    except ValueError:  # not a URL
        return False
    return True


def _derive_box(annotation: dict[str, Any], size_of: Callable) -> bool:
    box = annotation.get('bbox')
    if box and box != [0, 0, 0, 0]:
        return False
    around = box_around(annotation.get('segmentation'))
    if around is None or around == box:
        return False
    segmentation = annotation['segmentation']
    size = size_of(annotation.get('image_id')) if isinstance(segmentation, dict) else None
    if size and tuple(segmentation['size']) != size[::-1]:
        raise InputError(
            'annotation {!r} has no box, and run lengths of {} x {} pixels (width x height), but '
            'its image has {:g} x {:g}; export the masks at the size of the image'.format(
                annotation.get('id'), *segmentation['size'][::-1], *size
            )
        )
    annotation['bbox'] = around
    return True


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _is_length(value: Any) -> bool:
    return is_number(value) and value > 0


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


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
        area=_Field(is_number, 'a finite number', required=False),
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
