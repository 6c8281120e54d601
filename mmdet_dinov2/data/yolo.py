"""Reads YOLO datasets: a data.yaml, and a text file of boxes for every image.

The layout is that of Ultralytics (docs.ultralytics.com/datasets/detect). What a data.yaml says to
download or run is ignored.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from .image_file import read_header

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
_SPLIT_KEYS = {'train': ('train',), 'val': ('val', 'valid', 'validation'), 'test': ('test',)}
# Labels are written with 6 digits, so that sums of them may leave the image by rounding.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class YoloData:
    """A YOLO dataset.

    Attributes:
        path: The data.yaml.
        classes: Class names, in the order of the numbers in the label files.
        images: Image files by 'train', 'val' and 'test', of the splits that the data.yaml names.
    """

    path: Path
    classes: tuple[str, ...]
    images: dict[str, list[Path]]


@dataclass
class _Converted:
    """Size and boxes of one image, or why it cannot be read."""

    size: tuple[int, int] | None
    boxes: list[tuple[int, float, float, float, float]] = field(default_factory=list)
    problem: str = ''


def find_data_yaml(path: Path) -> Path | None:
    """Finds the data.yaml of a YOLO dataset: the file itself, or one in a folder.

    Raises:
        InputError: If the folder has several.
    """
    files = [path] if path.is_file() else sorted(p for p in path.glob('*') if p.is_file())
    found = [file for file in files if file.suffix in ('.yaml', '.yml') and _is_data_yaml(file)]
    named = [file for file in found if file.stem == 'data']
    if len(found) > 1 and len(named) != 1:
        names = ', '.join(file.name for file in found)
        raise InputError(f'{path} has several YOLO data files ({names}); give the path of one')
    return next(iter(named or found), None)


def read_data_yaml(path: Path) -> YoloData:
    """Reads a data.yaml and lists the images of its splits.

    Raises:
        InputError: If it is not valid, or its images are not found.
    """
    content = _load_yaml(path)
    root = path.parent
    if content.get('path'):
        named = root / str(content['path'])
        root = named if named.is_dir() else root  # else a path on a different computer
    images = {}
    for split, keys in _SPLIT_KEYS.items():
        key = next((key for key in keys if content.get(key)), None)
        if key is not None:
            entries = content[key] if isinstance(content[key], list) else [content[key]]
            files = [file for entry in entries for file in _list_images(path, key, entry, root)]
            images[split] = list(dict.fromkeys(files))
    return YoloData(path, _read_names(path, content), images)


def fingerprint(data: YoloData, split: str) -> str:
    """Returns a few characters that change when labels or images of a split change."""
    digest = hashlib.sha1(repr(data.classes).encode())
    for image in data.images[split]:
        for file in (image, label_file(image)):
            try:
                stat = file.stat()
                state = (stat.st_size, stat.st_mtime_ns)
            except FileNotFoundError:
                state = None
            digest.update(repr((str(file), state)).encode())
    return digest.hexdigest()[:10]


def to_coco(data: YoloData, split: str) -> tuple[dict[str, Any], str, list[str]]:
    """Converts a split to the content of a COCO annotation file.

    Boxes are clipped to the image. Polygons become the boxes around them. An image without a label
    file has no objects. Sizes are those of the upright image, as it is loaded.

    Returns:
        The content, the folder that its file names are relative to, and notes for the user.

    Raises:
        InputError: If a label file cannot be used, or no image can be read.
    """
    files = data.images[split]
    if not any(label_file(image).is_file() for image in files):
        raise InputError(
            f'none of the {len(files)} {split} images of {data.path} has a label file; that of '
            f'{files[0]} should be {label_file(files[0])}'
        )
    with ThreadPoolExecutor(8) as pool:
        converted = list(pool.map(lambda file: _convert(file, len(data.classes)), files))
    folder = os.path.commonpath([file.parent for file in files])
    images, annotations = [], []
    for file, result in zip(files, converted, strict=True):
        if result.size is None:
            continue
        width, height = result.size
        name = file.relative_to(folder).as_posix()
        image_id = len(images) + 1
        images.append(dict(id=image_id, file_name=name, width=width, height=height))
        for label, x, y, w, h in result.boxes:
            box = [x * width, y * height, w * width, h * height]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=label + 1,
                    bbox=box,
                    area=box[2] * box[3],
                    iscrowd=0,
                )
            )
    categories = [dict(id=label + 1, name=name) for label, name in enumerate(data.classes)]
    notes = _describe(split, files, converted)
    if not images:
        raise InputError(f'{data.path}: {notes[-1]}; repair at least one')
    return dict(images=images, annotations=annotations, categories=categories), folder, notes


def label_file(image: Path) -> Path:
    """Returns the label file of an image: the last 'images' of its path becomes 'labels'."""
    parts = list(image.parent.parts)
    if 'images' in parts:
        parts[len(parts) - 1 - parts[::-1].index('images')] = 'labels'
    return Path(*parts) / f'{image.stem}.txt'


def _is_data_yaml(path: Path) -> bool:
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (yaml.YAMLError, ValueError):
        return path.stem == 'data'  # so that read_data_yaml reports what is wrong with it
    return isinstance(content, dict) and ('names' in content or 'nc' in content)


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (yaml.YAMLError, ValueError) as error:
        reason = ' '.join(str(error).split())
        raise InputError(f'{path} is not valid YAML ({reason}); correct it') from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path} has no keys, but a YOLO data file needs 'train', 'val' and 'names'; add them"
        )
    return content


def _read_names(path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    names = content.get('names')
    if names is None and isinstance(content.get('nc'), int):
        names = [f'class_{index}' for index in range(content['nc'])]
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise InputError(
                f"the keys of 'names' in {path} must be 0 to {len(names) - 1}, one for each class, "
                f'but are {sorted(names, key=str)[:10]}'
            )
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise InputError(f"'names' in {path} must list the class names, but is {names!r}")
    if content.get('nc') not in (None, len(names)):
        raise InputError(
            f"{path} has nc={content['nc']}, but {len(names)} 'names'; correct one of them"
        )
    return tuple(str(name) for name in names)


def _list_images(path: Path, key: str, entry: Any, root: Path) -> list[Path]:
    """Lists the images of an entry: a folder, a text file that lists images, or an image."""
    entry = str(entry)
    tried = [root / entry]
    if entry.startswith('../'):  # exports of Roboflow have one '../' too many
        tried.append(root / entry[3:])
    place = next((place for place in tried if place.exists()), None)
    if place is None:
        places = ' and '.join(map(str, tried))
        raise InputError(
            f'{key!r} in {path} is {entry!r}, which does not exist; looked for {places}'
        )
    if place.is_dir():
        files = sorted(file for file in place.rglob('*') if file.suffix.lower() in IMAGE_SUFFIXES)
    elif place.suffix == '.txt':
        lines = place.read_text(encoding='utf-8').splitlines()
        files = [_listed(place, line.strip(), root) for line in lines if line.strip()]
    else:
        files = [place]
    if not files:
        raise InputError(f'{key!r} in {path} is {entry!r}, but {place} has no images')
    return [Path(os.path.abspath(file)) for file in files]


def _listed(list_file: Path, line: str, root: Path) -> Path:
    for folder in (list_file.parent, root):
        if (folder / line).is_file():
            return folder / line
    raise InputError(
        f'{list_file} lists {line!r}, which does not exist in {list_file.parent} or {root}'
    )


def _convert(image: Path, num_classes: int) -> _Converted:
    try:
        size = read_header(image).shown_size
    except (InputError, OSError) as error:
        return _Converted(None, problem=' '.join(str(error).split()))
    return _Converted(size, _read_boxes(label_file(image), num_classes))


def _read_boxes(path: Path, num_classes: int) -> list[tuple[int, float, float, float, float]]:
    """Reads a label file: class, then x, y, w, h of the box as fractions of the image."""
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise InputError(f'{path} is not a text file; remove it or export it again') from error
    rows = ((number, line.split()) for number, line in enumerate(lines, start=1))
    boxes = [_read_box(path, number, row, num_classes) for number, row in rows if row]
    return list(dict.fromkeys(boxes))


def _read_box(
    path: Path, number: int, row: Sequence[str], num_classes: int
) -> tuple[int, float, float, float, float]:
    try:
        label, *values = (float(word) for word in row)
    except ValueError:
        label, values = math.nan, []
    is_polygon = len(values) >= 6 and len(values) % 2 == 0
    if len(values) != 4 and not is_polygon or not all(map(math.isfinite, (label, *values))):
        raise InputError(
            f"{path}, line {number}: expected 'class x y width height' or a polygon, found "
            f'{" ".join(row)[:80]!r}'
        )
    if label != int(label) or not 0 <= label < num_classes:
        raise InputError(
            f'{path}, line {number}: the class must be 0 to {num_classes - 1}, as there are '
            f"{num_classes} 'names' in the data file, but is {row[0]}"
        )
    if is_polygon:
        x1, y1, x2, y2 = (
            min(values[0::2]), min(values[1::2]), max(values[0::2]), max(values[1::2]),
        )  # fmt: skip
    else:
        x, y, w, h = values
        x1, y1, x2, y2 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    centre = ((x1 + x2) / 2, (y1 + y2) / 2)
    if any(not -_TOLERANCE <= value <= 1 + _TOLERANCE for value in (*centre, x2 - x1, y2 - y1)):
        raise InputError(
            f'{path}, line {number}: coordinates must be fractions of width and height between 0 '
            f'and 1, found {" ".join(row)[:80]!r}'
        )
    x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in (x1, y1, x2, y2))
    return int(label), x1, y1, x2 - x1, y2 - y1


def _describe(split: str, files: Sequence[Path], converted: Sequence[_Converted]) -> list[str]:
    notes = []
    empty = sum(result.size is not None and not result.boxes for result in converted)
    if empty:
        notes.append(f'{empty} of {len(files)} {split} images have no boxes')
    broken = [(f, r.problem) for f, r in zip(files, converted, strict=True) if r.size is None]
    if broken:
        file, problem = broken[0]
        notes.append(
            f'{len(broken)} of {len(files)} {split} images are left out, because they cannot be '
            f'read, first {file} ({problem})'
        )
    return notes
