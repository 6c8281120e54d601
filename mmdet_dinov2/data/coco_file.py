"""Reading a COCO annotation file, and counting the boxes that mmdet will use of it."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError

_REQUIRED_KEYS = {
    'images': frozenset(('id', 'file_name', 'width', 'height')),
    'categories': frozenset(('id', 'name')),
    'annotations': frozenset(('id', 'image_id', 'category_id', 'bbox', 'area')),
}


@dataclass(frozen=True)
class CocoFile:
    """The content of a COCO annotation file, checked to have the keys that mmdet reads.

    Attributes:
        path: Where it was read.
        images: Dicts with ``id``, ``file_name``, ``width`` and ``height`` in pixels.
        categories: Dicts with ``id`` and ``name``.
        annotations: Dicts with ``id``, ``image_id``, ``category_id``, ``bbox`` as ``x, y, w, h``
            in pixels, and ``area`` in square pixels. ``None`` if the file has no such section,
            like the files of unpublished test annotations.
    """

    path: str
    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    annotations: list[dict[str, Any]] | None

    @property
    def category_names(self) -> list[str]:
        """Names in the order of the file, by which mmdet numbers the labels."""
        return [category['name'] for category in self.categories]


@dataclass
class BoxCounts:
    """How many boxes of a file mmdet trains on, and why it leaves out the others.

    Attributes:
        usable: Boxes to train on.
        dropped: Number of boxes per reason to drop them without a word.
        other_category: Number of boxes per name of a category that is not a class.
        crowd: Boxes of crowd regions: legal, but not trained on.
        filtered: Boxes on images that ``filter_cfg.min_size`` removes.
    """

    usable: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    other_category: Counter[str] = field(default_factory=Counter)
    crowd: int = 0
    filtered: int = 0


def read_coco_file(path: str) -> CocoFile:
    """Read a local COCO annotation file and check the keys of every entry.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is not JSON, or not of COCO's form.
    """
    if not os.path.isfile(path):
        what = 'is a folder, not a file' if os.path.isdir(path) else 'does not exist'
        raise FileNotFoundError(f"Annotation file '{path}' {what}")
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except ValueError as error:
        raise InputError(
            f"Annotation file '{path}' is not valid JSON ({error}); export or download it again."
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"Annotation file '{path}' holds a {type(content).__name__}, not the dict with "
            "'images', 'annotations' and 'categories' of a COCO file; convert it to COCO format."
        )
    for section in ('images', 'categories'):
        if section not in content:
            raise InputError(
                f"Annotation file '{path}' lacks the key '{section}' of a COCO file (it has "
                f'{", ".join(map(repr, content)) or "no keys"}); convert it to COCO format.'
            )
    for section in _REQUIRED_KEYS.keys() & content.keys():
        _check_entries(path, section, content[section])
    return CocoFile(path, content['images'], content['categories'], content.get('annotations'))


def _check_entries(path: str, section: str, entries: Any) -> None:
    if not isinstance(entries, list):
        raise InputError(
            f"Annotation file '{path}' has a {type(entries).__name__} as '{section}' where COCO "
            'has a list; convert it to COCO format.'
        )
    required = _REQUIRED_KEYS[section]
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not required <= entry.keys():
            missing = required - entry.keys() if isinstance(entry, dict) else required
            raise InputError(
                f"Annotation file '{path}' lacks {', '.join(map(repr, sorted(missing)))} in "
                f'{section}[{index}], which mmdet reads; add what is missing to every entry of '
                f"'{section}'."
            )


def count_boxes(coco: CocoFile, classes: tuple[str, ...], min_size: float = 0) -> BoxCounts:
    """Sort the boxes of a file by what mmdet's ``CocoDataset`` does with them in training.

    Args:
        coco: A file with annotations.
        classes: The class names of the dataset.
        min_size: Images with a side below it, in pixels, are removed.

    Raises:
        InputError: If a box is not four finite numbers.
    """
    counts = BoxCounts()
    sizes = {image['id']: (image['width'], image['height']) for image in coco.images}
    names = {category['id']: category['name'] for category in coco.categories}
    class_ids = {category_id for category_id, name in names.items() if name in classes}
    for annotation in coco.annotations or ():
        size = sizes.get(annotation['image_id'])
        try:
            reason = _reason_to_drop(annotation, size)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"Annotation file '{coco.path}' has the annotation id {annotation['id']} with "
                f'bbox {annotation["bbox"]} and area {annotation["area"]} on an image of size '
                f'{size}, where four finite numbers, a number and two numbers are expected; '
                'correct or remove it.'
            ) from error
        if reason:
            counts.dropped[reason] += 1
        elif annotation['category_id'] not in class_ids:
            name = names.get(annotation['category_id'])
            counts.other_category[name or f'id {annotation["category_id"]}, not listed'] += 1
        elif annotation.get('iscrowd'):
            counts.crowd += 1
        elif min(size) < min_size:
            counts.filtered += 1
        else:
            counts.usable += 1
    return counts


def _reason_to_drop(annotation: Mapping[str, Any], size: tuple[float, float] | None) -> str:
    """Return why mmdet drops a box of a known category, or an empty string."""
    if size is None:
        return 'of images that the file does not list'
    if annotation.get('ignore'):
        return "marked 'ignore'"
    x, y, w, h = annotation['bbox']
    if not math.isfinite(x + y + w + h + annotation['area']):
        raise ValueError('not finite')
    if w < 1 or h < 1:
        return 'with a side below 1 pixel'
    if min(x + w, size[0]) <= max(x, 0) or min(y + h, size[1]) <= max(y, 0):
        return 'outside the image'
    if annotation['area'] <= 0:
        return "with an 'area' of 0 or less"
    return ''
