"""Which boxes of a COCO file are used in training, and why the others are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from .annotation_columns import AnnotationColumns

_MAX_EXAMPLES = 5
# Boxes that are looked at together, so that intermediate results stay small.
_BLOCK = 2**18

# Why mmdet drops a box, the first reason that holds.
_REASONS = (
    'on images that the file does not list',
    "marked 'ignore'",
    'of zero or negative size',
    'between 0 and 1, as fractions of the image',
    'with a side below 1 pixel',
    'outside the image',
    "with an 'area' of 0 or less",
)
_NO_REASON = len(_REASONS)


@dataclass
class BoxCounts:
    """How many boxes of a file are used in training, and why the others are not.

    Attributes:
        usable: Number of boxes to train on.
        dropped: Numbers of boxes that mmdet drops silently, by reason.
        examples: Up to five dropped boxes by reason, such as ``id 7 on 'a.jpg'``.
        other_category: Numbers of boxes whose category is not a class, by name of the category.
        crowd: Number of crowd regions, which are legal but not used in training.
        filtered: Number of boxes on images that ``filter_cfg.min_size`` removes.
        per_class: Numbers of boxes that are trained on wherever images are not filtered, by class.
        per_image: Number of usable boxes of each image, (N,).
        fullest: Position of the image that has the most of them, or -1.
    """

    usable: int
    dropped: Counter[str]
    examples: dict[str, list[str]]
    other_category: Counter[str]
    crowd: int
    filtered: int
    per_class: Counter[str]
    per_image: np.ndarray
    fullest: int = field(default=-1)


def count_boxes(
    columns: AnnotationColumns, classes: Sequence[str], min_size: float = 0
) -> BoxCounts:
    """Counts the boxes of a file by what mmdet's ``CocoDataset`` does with them in training.

    Args:
        columns: The annotation file.
        classes: The class names of the dataset.
        min_size: Smallest side in pixels of images that are kept.
    """
    reasons = _reasons_to_drop(columns)
    names = columns.category_names
    is_class = np.array([name in classes for name in names] + [False], dtype=bool)
    # The last entry stands for all categories that the file does not list.
    category = np.maximum(columns.category_index, -1)
    sound = reasons == _NO_REASON
    of_class = sound & is_class[category]
    objects = of_class & ~columns.crowd
    small = np.minimum(columns.widths, columns.heights) < min_size
    usable = objects.copy()
    if small.any():
        usable[objects] = ~small[columns.image_index[objects]]
    per_image = np.bincount(columns.image_index[usable], minlength=columns.num_images)
    dropped, examples = _dropped(columns, reasons)
    num_usable, num_objects = int(usable.sum()), int(objects.sum())
    return BoxCounts(
        usable=num_usable,
        dropped=dropped,
        examples=examples,
        other_category=_other_categories(columns, sound & ~is_class[category]),
        crowd=int(of_class.sum()) - num_objects,
        filtered=num_objects - num_usable,
        per_class=_by_name(names, columns.category_index[objects]),
        per_image=per_image,
        fullest=_fullest(per_image, columns.image_index[usable]),
    )


def trained_on(columns: AnnotationColumns) -> np.ndarray:
    """Returns whether each box is used in training, if its category is a class, (A,) bool."""
    return (_reasons_to_drop(columns) == _NO_REASON) & ~columns.crowd


def _reasons_to_drop(columns: AnnotationColumns) -> np.ndarray:
    """Returns why mmdet drops each box of a known category, as an index of ``_REASONS``, (A,)."""
    if not columns.num_images:
        return np.zeros(columns.num_annotations, dtype=np.uint8)
    found = [np.zeros(0, dtype=np.uint8)]
    for block in _blocks(columns):
        image = columns.image_index[block]
        x, y, w, h = columns.boxes[block].T
        place = np.maximum(image, -1)  # any image stands for one that the file does not list
        width, height = columns.widths[place], columns.heights[place]
        narrow = (w < 1) | (h < 1)
        inside_one = (np.minimum(x, y) >= 0) & (np.maximum(x + w, y + h) <= 1)
        outside = np.minimum(x + w, width) <= np.maximum(x, 0)
        outside |= np.minimum(y + h, height) <= np.maximum(y, 0)
        rules = (
            image < 0,
            columns.ignored[block],
            (w <= 0) | (h <= 0),
            narrow & inside_one,
            narrow,
            outside,
            columns.areas[block] <= 0,
        )
        found.append(np.select(rules, range(len(rules)), _NO_REASON).astype(np.uint8))
    return np.concatenate(found)


def _blocks(columns: AnnotationColumns) -> Iterator[slice]:
    for start in range(0, columns.num_annotations, _BLOCK):
        yield slice(start, start + _BLOCK)


def _dropped(
    columns: AnnotationColumns, reasons: np.ndarray
) -> tuple[Counter[str], dict[str, list[str]]]:
    """Returns numbers and examples of dropped boxes by reason, in the order of the file."""
    places = {text: np.flatnonzero(reasons == code) for code, text in enumerate(_REASONS)}
    order = sorted((text for text in places if len(places[text])), key=lambda t: places[t][0])
    examples = {
        reason: [_example(columns, index) for index in places[reason][:_MAX_EXAMPLES].tolist()]
        for reason in order
    }
    return Counter({reason: len(places[reason]) for reason in order}), examples


def _example(columns: AnnotationColumns, index: int) -> str:
    image = int(columns.image_index[index])
    where = (
        repr(columns.file_names[image]) if image >= 0 else f'image id {columns.image_id(index)!r}'
    )
    return f'id {columns.ids[index]!r} on {where}'


def _other_categories(columns: AnnotationColumns, of_others: np.ndarray) -> Counter[str]:
    """Counts the boxes that are not of a class by the names of their categories."""
    category = columns.category_index[of_others]
    counts = _by_name(columns.category_names, category[category >= 0])
    unlisted = np.bincount(-1 - category[category < 0])
    for index in np.flatnonzero(unlisted).tolist():
        name = f'id {columns.unlisted_categories[index]}, which the file does not list'
        counts[name] += int(unlisted[index])
    return counts


def _by_name(names: Sequence[str], categories: np.ndarray) -> Counter[str]:
    counts: Counter[str] = Counter()
    for index, count in enumerate(np.bincount(categories, minlength=len(names)).tolist()):
        if count:
            counts[names[index]] += count
    return counts


def _fullest(per_image: np.ndarray, images_of_boxes: np.ndarray) -> int:
    """Returns the image with the most boxes; of several, that of the first box in the file."""
    if not len(images_of_boxes):
        return -1
    full = per_image == per_image.max()
    return int(images_of_boxes[full[images_of_boxes].argmax()])


def looks_normalised(columns: AnnotationColumns) -> bool:
    """Returns whether all boxes lie between 0 and 1, as fractions of the image, not pixels."""
    any_box = False
    for block in _blocks(columns):
        boxes = columns.boxes[block]
        if boxes.min() < 0 or (boxes[:, :2] + boxes[:, 2:]).max() > 1.001:
            return False
        any_box |= bool((boxes[:, 2:] > 0).all(axis=1).any())
    return any_box


def look_like_corners(columns: AnnotationColumns) -> bool:
    """Returns whether the boxes look like ``x1, y1, x2, y2`` instead of ``x, y, width, height``.

    They do if all of them are valid inside their image as ``x1, y1, x2, y2``, and most would extend
    beyond it as ``x, y, width, height``.
    """
    beyond = total = 0
    for block in _blocks(columns):
        listed = columns.image_index[block] >= 0
        image = columns.image_index[block][listed]
        x, y, x2, y2 = columns.boxes[block][listed].T
        width, height = columns.widths[image] + 1, columns.heights[image] + 1
        wrong = (x < 0) | (y < 0) | (x2 < x) | (y2 < y) | (x2 > width) | (y2 > height)
        if wrong.any():
            return False
        total += len(image)
        beyond += int(((x + x2 > width) | (y + y2 > height)).sum())
    return total > 0 and beyond > total / 2
