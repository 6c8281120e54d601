"""Boxes that a detector predicted, corrected by a person or not, as training data."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.ops import nms

from ..errors import InputError
from ..wording import name_some
from .annotation_columns import AnnotationColumns
from .annotation_file import read_annotations, read_entries
from .data_folder import DataFolder
from .formats.found import Remarks, common_folder, example
from .formats.image_names import locate_images
from .formats.json_kinds import is_predicted, json_kind
from .known_photos import KnownPhotos

# Field of an annotation, and of the `info` of a merged file.
FIELD, COUNT = 'predicted', 'predicted_boxes'
# Of two boxes that overlap by more, of any class, the better one counts: a DETR has no NMS.
_SAME_OBJECT_IOU = 0.7
_HEAD_BYTES = 256
_COUNT = re.compile(rb'"predicted_boxes": (\d+)')


def one_box_per_object(boxes: Tensor, scores: Tensor) -> Tensor:
    """Chooses the detections of an image to learn from, at most one for each object.

    Args:
        boxes: Detections (x1, y1, x2, y2), of all classes, (n, 4).
        scores: Their scores, (n,).

    Returns:
        Their rows, the best one first.
    """
    return nms(boxes.double(), scores.double(), _SAME_OBJECT_IOU)


@dataclass(frozen=True)
class Merged:
    """Training data with predicted boxes.

    Attributes:
        content: Content of a COCO annotation file.
        folder: Folder that its file names are relative to.
    """

    content: dict[str, Any]
    folder: Path


def find_predicted(folder: DataFolder) -> list[Path]:
    """Returns the files of predicted boxes in the folder of a dataset."""
    return [
        path
        for path in folder.with_suffix('.json')
        if is_predicted(path) and json_kind(path) == 'coco'
    ]


def merge_predicted(
    files: Sequence[Path],
    train: AnnotationColumns,
    train_folder: Path,
    scored: Mapping[str, Collection[str]],
    folder: DataFolder,
    remarks: Remarks,
) -> Merged | None:
    """Adds the photos and boxes of files of predicted boxes to training data.

    Photos without boxes are left out, since a detector that finds nothing does not know that there
    is nothing; photos with labels are left out, since labels know better. Copies of photos count as
    the photos.

    Args:
        files: Files that ``mmdet_dinov2 predict --as-annotations`` wrote, as they are or corrected.
        train: The annotations of the training data.
        train_folder: Folder that its file names are relative to.
        scored: Paths of the photos of other splits, by the name of the split; these photos are left
            out, with a warning.
        folder: The folder of the dataset.
        remarks: Receives what was done.

    Returns:
        The merged data; None if nothing is added.

    Raises:
        InputError: If a file has a class that the training data lack.
    """
    entries = read_entries(train.path)
    paths = [Path(train_folder, image['file_name']) for image in entries['images']]
    known, added = KnownPhotos({'train': paths, **scored}), set()
    images, annotations = list(entries['images']), list(entries.get('annotations', ()))
    categories = {category['name']: category['id'] for category in train.categories}
    image_ids, annotation_ids = _fresh_ids(images), _fresh_ids(annotations)
    predicted = 0
    for file in files:
        photos, boxes_of, count = _photos_of(file, categories, folder, remarks)
        left_out: Counter[str] = Counter()
        boxes: list[dict[str, Any]] = []
        before = len(images)
        for photo, path in photos:
            place, split = os.path.realpath(path), known.split_of(path)
            if split or place in added:
                left_out[split or 'train'] += 1
                continue
            added.add(place)
            images.append(dict(photo, id=next(image_ids)))
            paths.append(path)
            boxes += (
                dict(box, id=next(annotation_ids), image_id=images[-1]['id'])
                for box in boxes_of[photo['id']]
            )
        annotations += boxes
        marked = sum(bool(box.get(FIELD)) for box in boxes)
        predicted += marked
        remarks.notes.append(
            f'train: {len(images) - before} of {count} photos of {file} are added, with '
            f'{marked} predicted boxes and {len(boxes) - marked} others'
        )
        if labeled := left_out.pop('train', 0):
            remarks.notes.append(f'{labeled} photos of {file} have labels, and keep only these')
        for split, number in left_out.items():
            remarks.warnings.append(
                f'{number} photos of {file} are photos of the {split} split, and are left out'
            )
    if len(images) == len(entries['images']):
        return None
    root = common_folder(paths)
    for image, path in zip(images, paths, strict=True):
        image['file_name'] = Path(os.path.relpath(path, root)).as_posix()
    content = dict(
        info={COUNT: predicted},
        images=images,
        annotations=annotations,
        categories=train.categories,
    )
    return Merged(content, root)


def _photos_of(
    file: Path, categories: Mapping[str, Any], folder: DataFolder, remarks: Remarks
) -> tuple[list[tuple[dict[str, Any], Path]], dict[Any, list[dict[str, Any]]], int]:
    """Returns photos with boxes and their paths, boxes by image id, and the number of photos."""
    coco = read_annotations(str(file), sizes=True)
    content = read_entries(str(file))
    names = {category['id']: category['name'] for category in coco.categories}
    boxes_of: dict[Any, list[dict[str, Any]]] = {}
    for annotation in content.get('annotations', ()):
        name = names.get(annotation['category_id'])
        if name not in categories:
            raise InputError(
                f'{file} has boxes of {name!r}, which the labels of the training data lack; they '
                f'have {name_some(list(categories))}; correct the category in the file'
            )
        box = dict(annotation, category_id=categories[name])
        boxes_of.setdefault(annotation['image_id'], []).append(box)
    photos = [image for image in content['images'] if image['id'] in boxes_of]
    photo_names = list(dict.fromkeys(photo['file_name'] for photo in photos))
    if not photo_names:
        return [], boxes_of, coco.num_images
    info = content.get('info')
    said = info.get('folder') if isinstance(info, dict) else None
    candidates = [Path(said)] if said and isinstance(said, str) else []
    candidates += [file.parent, folder.root]
    sizes = {photo['file_name']: (photo['width'], photo['height']) for photo in photos}
    located = locate_images(photo_names, sizes, folder, candidates, 'train')
    missing = set(located.missing)
    if missing:
        remarks.warnings.append(
            f'{len(missing)} photos of {file} were not found {example(sorted(missing))}; looked in '
            f'{" and ".join(map(str, candidates))}'
        )
    found = [
        (photo, located.folder / located.names[photo['file_name']])
        for photo in photos
        if photo['file_name'] not in missing
    ]
    return found, boxes_of, coco.num_images


def _fresh_ids(entries: Sequence[Mapping[str, Any]]) -> Iterator[int]:
    """Returns ids that no entry has."""
    return itertools.count(1 + max((e['id'] for e in entries if type(e['id']) is int), default=0))


def predicted_count(path: str | os.PathLike) -> int:
    """Returns how many boxes of an annotation file a detector predicted, as far as it says so."""
    with open(path, 'rb') as file:
        found = _COUNT.search(file.read(_HEAD_BYTES))
    return int(found[1]) if found else 0
