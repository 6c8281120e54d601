"""Finds datasets in the format of Pascal VOC: an XML file for each picture.

Boxes are taken as they stand, ``xmax - xmin`` wide, as mmdet's ``XMLDataset`` takes them: the tools
that write this format do not count pixels from 1, as the challenge did.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from ...errors import InputError
from ..data_folder import DataFolder
from ..splits import SPLITS, is_trainval, split_of
from ..text_file import read_text
from .found import FoundData, Remarks, example
from .per_picture import NamedBox, PictureFile, found_pictures

FORMAT = 'Pascal VOC'
_BEGINNING = 4096
_ROOT = re.compile(rb'<annotation[\s>]')


def find(folder: DataFolder) -> FoundData | None:
    """Finds a dataset in the format of Pascal VOC.

    Splits are those of ``ImageSets/Main``, else of folders, else all pictures are for training.

    Raises:
        InputError: If an XML file cannot be used, or no picture is found.
    """
    paths = [path for path in folder.with_suffix('.xml') if is_pascal_voc(path)]
    if not paths:
        return None
    remarks = Remarks()
    files = [_read(path) for path in paths]
    return found_pictures(FORMAT, folder, files, remarks, _listed_splits(folder, files, remarks))


def is_pascal_voc(path: Path) -> bool:
    """Returns whether an XML file begins as one of Pascal VOC."""
    with path.open('rb') as file:
        beginning = file.read(_BEGINNING)
    return bool(_ROOT.search(beginning.replace(b'\0', b'')))  # without the zeros of UTF-16


def _read(path: Path) -> PictureFile:
    content = path.read_bytes()
    if b'<!ENTITY' in content.replace(b'\0', b''):
        # A few lines of them can stand for gigabytes, and this format has none.
        raise InputError(f'{path} defines entities, which are not read; export it again')
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f'{path} is not valid XML ({error}); export it again') from error
    size = tuple(_number(root.find(f'size/{side}')) for side in ('width', 'height'))
    usable = all(side is not None and side > 0 for side in size)
    boxes = [_read_box(path, index, item) for index, item in enumerate(root.findall('object'))]
    return PictureFile(
        path, (root.findtext('filename') or '').strip(), size if usable else None, boxes
    )


def _read_box(path: Path, index: int, item: ElementTree.Element) -> NamedBox:
    name = (item.findtext('name') or '').strip()
    where = f'{path}, object {index + 1}'
    if not name:
        raise InputError(f'{where}: the name of its class is missing; add <name>')
    corners = _corners(item)
    if corners is None:
        raise InputError(
            f'{where} ({name}): expected <bndbox> with the numbers xmin, ymin, xmax and ymax; '
            'correct or remove the object'
        )
    x1, y1, x2, y2 = corners
    return NamedBox(name, x1, y1, x2 - x1, y2 - y1)


def _corners(item: ElementTree.Element) -> tuple[float, float, float, float] | None:
    box = item.find('bndbox')
    if box is not None:
        values = tuple(_number(box.find(key)) for key in ('xmin', 'ymin', 'xmax', 'ymax'))
        return None if None in values else values
    turned = item.find('robndbox')  # roLabelImg
    if turned is not None:
        values = [_number(turned.find(key)) for key in ('cx', 'cy', 'w', 'h', 'angle')]
        return None if None in values else _around_turned(*values)
    polygon = item.find('polygon')  # Roboflow: x1, y1, x2, ...
    if polygon is not None:
        xs = [_number(point) for point in polygon if point.tag.startswith('x')]
        ys = [_number(point) for point in polygon if point.tag.startswith('y')]
        if xs and ys and None not in (*xs, *ys):
            return min(xs), min(ys), max(xs), max(ys)
    return None


def _around_turned(
    cx: float, cy: float, width: float, height: float, angle: float
) -> tuple[float, float, float, float]:
    cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
    half_w, half_h = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    return cx - half_w, cy - half_h, cx + half_w, cy + half_h


def _number(element: ElementTree.Element | None) -> float | None:
    try:
        value = float(element.text)
    except (AttributeError, TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _listed_splits(
    folder: DataFolder, files: list[PictureFile], remarks: Remarks
) -> Callable[[PictureFile], str | None] | None:
    """Returns what gives the split of a file by the lists in ``ImageSets/Main``."""
    lists = _find_lists(folder)
    if not lists:
        return None
    tails = {tail for file in files for tail in _tails(folder, file)}
    splits: dict[str, str] = {}
    for split, path in lists.items():
        names = list(_read_list(path))
        absent = [name for name in names if name not in tails]
        if absent:
            remarks.warnings.append(
                f'{len(absent)} of {len(names)} names in {folder.relative(path)} have no XML file '
                f'{example(absent)}; add the files, or correct the list'
            )
        twice = [name for name in names if name in splits]
        if twice:
            remarks.warnings.append(
                f'{len(twice)} names of {folder.relative(path)} are in a list of another split '
                f'too, and count there {example(twice)}; correct the lists'
            )
        for name in names:
            splits.setdefault(name, split)
    return lambda file: next(filter(None, map(splits.get, _tails(folder, file))), None)


def _tails(folder: DataFolder, file: PictureFile) -> list[str]:
    """Returns the names that a list may give a file: with all of its folders, ..., with none."""
    parts = (*folder.parts(file.path), file.path.stem)
    return ['/'.join(parts[start:]) for start in range(len(parts))]


def _find_lists(folder: DataFolder) -> dict[str, Path]:
    """Returns the list of each split in ``ImageSets/Main``; 'trainval' counts without 'train'."""
    texts = [
        path
        for path in folder.with_suffix('.txt')
        if folder.parts(path)[-2:] == ('ImageSets', 'Main')
    ]
    # 'cat_train' lists the pictures of one class.
    whole = [path for path in texts if path.stat().st_size and '_' not in path.stem]
    lists = {}
    for path in sorted(whole, key=lambda path: is_trainval(path.stem)):
        split = split_of(path.stem) or ('train' if path.stem == 'default' else None)
        if split is not None:
            lists.setdefault(split, path)
    return {split: lists[split] for split in SPLITS if split in lists}


def _read_list(path: Path) -> Iterator[str]:
    """Yields the names in a list, without endings and without a column after them."""
    for line in read_text(path).splitlines():
        name = re.sub(r'\s+-?[01]$', '', line.strip()).replace('\\', '/')
        if name:
            yield re.sub(r'\.(xml|jpe?g|png|bmp)$', '', name, flags=re.IGNORECASE)
