"""Which boxes of a COCO file are used in training, and why the others are not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .coco_file import CocoFile, complete_annotation

_MAX_EXAMPLES = 5


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
        filled: Numbers of annotations that lack ``'area'`` and ``'iscrowd'``.
        per_image: Numbers of usable boxes by image id, of the images that have some.
    """

    usable: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    other_category: Counter[str] = field(default_factory=Counter)
    crowd: int = 0
    filtered: int = 0
    filled: Counter[str] = field(default_factory=Counter)
    per_image: Counter[Any] = field(default_factory=Counter)


def count_boxes(coco: CocoFile, classes: Sequence[str], min_size: float = 0) -> BoxCounts:
    """Counts the boxes of a file by what mmdet's ``CocoDataset`` does with them in training.

    Args:
        coco: The annotation file.
        classes: The class names of the dataset.
        min_size: Smallest side in pixels of images that are kept.
    """
    counts = BoxCounts()
    images = {image['id']: image for image in coco.images}
    names = {category['id']: category['name'] for category in coco.categories}
    class_ids = {category_id for category_id, name in names.items() if name in classes}
    for annotation in coco.annotations or ():
        image = images.get(annotation['image_id'])
        counts.filled.update(key for key in ('area', 'iscrowd') if key not in annotation)
        reason = _reason_to_drop(complete_annotation(annotation), image)
        if reason:
            counts.dropped[reason] += 1
            if len(counts.examples[reason]) < _MAX_EXAMPLES:
                where = f'image id {annotation["image_id"]!r}'
                where = where if image is None else repr(image['file_name'])
                counts.examples[reason].append(f'id {annotation["id"]!r} on {where}')
        elif annotation['category_id'] not in class_ids:
            name = names.get(annotation['category_id'])
            counts.other_category[
                name or f'id {annotation["category_id"]}, which the file does not list'
            ] += 1
        elif annotation.get('iscrowd'):
            counts.crowd += 1
        elif min(image['width'], image['height']) < min_size:
            counts.filtered += 1
        else:
            counts.usable += 1
            counts.per_image[annotation['image_id']] += 1
    return counts


def is_trained_on(annotation: Mapping[str, Any], image: Mapping[str, Any] | None) -> bool:
    """Returns whether a box is used in training, if its category is a class."""
    complete = complete_annotation(annotation)
    return not complete['iscrowd'] and not _reason_to_drop(complete, image)


def _reason_to_drop(annotation: Mapping[str, Any], image: Mapping[str, Any] | None) -> str:
    """Returns why mmdet drops a box of a known category, or an empty string."""
    if image is None:
        return 'on images that the file does not list'
    if annotation.get('ignore'):
        return "marked 'ignore'"
    x, y, w, h = annotation['bbox']
    if w <= 0 or h <= 0:
        return 'of zero or negative size'
    if w < 1 or h < 1:
        if min(x, y) >= 0 and max(x + w, y + h) <= 1:
            return 'between 0 and 1, as fractions of the image'
        return 'with a side below 1 pixel'
    if min(x + w, image['width']) <= max(x, 0) or min(y + h, image['height']) <= max(y, 0):
        return 'outside the image'
    if annotation['area'] <= 0:
        return "with an 'area' of 0 or less"
    return ''


def looks_normalised(coco: CocoFile) -> bool:
    """Returns whether all boxes lie between 0 and 1, as fractions of the image, not pixels."""
    boxes = [annotation['bbox'] for annotation in coco.annotations or ()]
    return any(w > 0 and h > 0 for _, _, w, h in boxes) and all(
        min(x, y, w, h) >= 0 and max(x + w, y + h) <= 1.001 for x, y, w, h in boxes
    )


def look_like_corners(coco: CocoFile) -> bool:
    """Returns whether the boxes look like ``x1, y1, x2, y2`` instead of ``x, y, width, height``.

    They do if all of them are valid inside their image as ``x1, y1, x2, y2``, and most would extend
    beyond it as ``x, y, width, height``.
    """
    images = {image['id']: image for image in coco.images}
    beyond = total = 0
    for annotation in coco.annotations or ():
        image = images.get(annotation['image_id'])
        if image is None:
            continue
        x, y, x2, y2 = annotation['bbox']
        width, height = image['width'], image['height']
        if x < 0 or y < 0 or x2 < x or y2 < y or x2 > width + 1 or y2 > height + 1:
            return False
        total += 1
        beyond += x + x2 > width + 1 or y + y2 > height + 1
    return total > 0 and beyond > total / 2
