"""Pictures with label files of YOLO, whatever says which pictures and classes there are."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..data_folder import DataFolder
from ..image_header import read_header
from ..similar_files import suggest_file
from .found import (
    FoundData,
    FoundSplit,
    Picture,
    PictureBox,
    Remarks,
    coco_content,
    common_folder,
    example,
    file_state,
    fingerprint,
)
from .yolo_labels import (
    Label,
    LabelFormat,
    could_be_corners,
    look_like_corners,
    looks_like_labels,
    read_labels,
)

# Text files that lie beside label files.
NAME_FILES = ('classes.txt', 'labels.txt', 'names.txt')

# Change it when the same files give a different content, so that earlier ones are not reused.
_CONTENT = 'boxes and polygons'
# Number of boxes that are not all large and in the middle by chance.
_MANY_BOXES = 30


@dataclass(frozen=True)
class YoloData:
    """Pictures and classes of a dataset with label files.

    Attributes:
        path: The file that describes it.
        classes: Class names by the numbers in the label files.
        images: Picture files by 'train', 'val' and 'test'.
        key_points: Number of key points and of values for each, for labels of poses.
        remarks: What its reader has to say.
    """

    path: Path
    classes: dict[int, str]
    images: dict[str, list[Path]]
    key_points: tuple[int, int] | None = None
    remarks: Remarks = field(default_factory=Remarks)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of their numbers, which is that of the labels."""
        return tuple(self.classes[number] for number in sorted(self.classes))

    @property
    def label_format(self) -> LabelFormat:
        """What the lines of the label files mean."""
        return LabelFormat(self.classes, self.key_points)


@dataclass
class _Read:
    """Size and labels of one picture, or why it cannot be read."""

    size: tuple[int, int] | None
    labels: list[Label] = field(default_factory=list)
    has_label_file: bool = False
    problem: str = ''


def found_data(data: YoloData) -> FoundData:
    """Returns a dataset with label files in the form that all formats share."""
    remarks = Remarks()
    remarks.add(data.remarks)
    remarks.warnings += _unpaired_labels(data) + _unused_pictures(data)
    splits = {
        split: FoundSplit(
            common_folder(files),
            f'the YOLO labels of {data.path}',
            partial(to_coco, data, split),
            _fingerprint(data, split),
        )
        for split, files in data.images.items()
    }
    return FoundData('YOLO', data.class_names, splits, remarks)


def to_coco(data: YoloData, split: str) -> tuple[dict[str, Any], Remarks]:
    """Converts a split to the content of a COCO annotation file.

    Boxes are cut at the border of the image, after it is known that they are boxes. Polygons and
    oriented boxes become masks, and the upright boxes around them. A picture without a label file
    has no objects. Sizes are those of the upright picture, as it is loaded.

    Returns:
        The content, and remarks.

    Raises:
        InputError: If a label file cannot be used, or no picture can be read.
    """
    files = data.images[split]
    if not any(find_label_file(image) for image in files):
        folder = DataFolder(data.path.parent)
        hint = suggest_file(
            label_file(files[0]).name, map(folder.relative, folder.with_suffix('.txt'))
        )
        raise InputError(
            f'none of the {len(files)} {split} images of {data.path} has a label file; that of '
            f'{files[0]} should be {label_file(files[0])}{f"; {hint}" if hint else ""}'
        )
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(partial(_read, form=data.label_format), files))
    _refuse_corners(data, split, files, read)
    remarks = _describe(split, files, read)
    order = {number: label for label, number in enumerate(sorted(data.classes))}
    pictures = [
        Picture(file, result.size, _boxes(result, order))
        for file, result in zip(files, read, strict=True)
        if result.size is not None
    ]
    if not pictures:
        raise InputError(f'{data.path}: {remarks.warnings[-1]}; repair at least one')
    return coco_content(pictures, data.class_names, common_folder(files)), remarks


def label_file(image: Path) -> Path:
    """Returns where the label file of an image should be.

    The last folder 'images' of its path becomes 'labels'; without one, it is beside the image.
    """
    parts = list(image.parent.parts)
    if 'images' in parts:
        parts[len(parts) - 1 - parts[::-1].index('images')] = 'labels'
    return Path(*parts) / f'{image.stem}.txt'


def find_label_file(image: Path) -> Path | None:
    """Returns the label file of an image: where it should be, else beside the image."""
    expected, beside = label_file(image), image.with_suffix('.txt')
    if expected.is_file():
        return expected
    return beside if beside.is_file() and looks_like_labels(beside) else None


def _fingerprint(data: YoloData, split: str) -> str:
    files = data.images[split]
    states = [
        (str(file), file_state(file))
        for image in files
        for file in (image, find_label_file(image) or label_file(image))
    ]
    return fingerprint(_CONTENT, sorted(data.classes.items()), data.key_points, states)


def _read(image: Path, form: LabelFormat) -> _Read:
    path = find_label_file(image)
    try:
        size = read_header(image).shown_size
    except (InputError, OSError) as error:
        problem = ' '.join(str(error).split())
        return _Read(None, has_label_file=path is not None, problem=problem)
    return _Read(size, read_labels(path, form) if path else [], path is not None)


def _boxes(read: _Read, order: dict[int, int]) -> list[PictureBox]:
    width, height = read.size
    boxes = []
    for number, (x, y, w, h), outline in dict.fromkeys(map(_content, read.labels)):
        polygon = [part * side for part, side in zip(outline, cycle(read.size), strict=False)]
        box = x * width, y * height, w * width, h * height
        boxes.append(PictureBox(order[number], *box, [polygon] if polygon else ()))
    return boxes


def _content(label: Label) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Returns what two equal lines of a file have in common."""
    return label.number, label.clipped(), label.outline


def _refuse_corners(
    data: YoloData, split: str, files: Sequence[Path], read: Sequence[_Read]
) -> None:
    if look_like_corners([label for result in read for label in result.labels]):
        first = next(f for f, result in zip(files, read, strict=True) if result.labels)
        raise InputError(
            f'the {split} labels of {data.path} look like x1, y1, x2, y2: as centre, width and '
            'height most boxes would extend beyond their image, as corners none (first '
            f"{find_label_file(first)}); write 'class x y width height' with the centre of the "
            'box, as fractions of the image'
        )


def _describe(split: str, files: Sequence[Path], read: Sequence[_Read]) -> Remarks:
    remarks = Remarks()
    count, pairs = len(files), list(zip(files, read, strict=True))
    labels = [label for result in read for label in result.labels]
    kinds = Counter(label.kind for label in labels)
    if kinds['oriented'] and not kinds['polygon']:
        remarks.notes.append(
            f'{kinds["oriented"]} of {len(labels)} {split} labels have four points, as oriented '
            'boxes do: the upright box around the points is used, and the angle is not learned; '
            'with a mask head the four points are the mask'
        )
    elif kinds['oriented'] + kinds['polygon']:
        remarks.notes.append(
            f'{kinds["oriented"] + kinds["polygon"]} of {len(labels)} {split} labels are polygons: '
            'the boxes around them are used, and with a mask head the polygons too'
        )
    if kinds['pose']:
        remarks.notes.append(f'the key points of {kinds["pose"]} {split} boxes are not used')
    empty = [f for f, r in pairs if r.size is not None and r.has_label_file and not r.labels]
    if empty:
        remarks.notes.append(
            f'{len(empty)} of {count} {split} images have an empty label file, so no boxes '
            f'{example(empty)}'
        )
    repeated = sum(len(r.labels) - len(set(map(_content, r.labels))) for r in read)
    if repeated:
        remarks.notes.append(
            f'{repeated} of {len(labels)} {split} labels repeat a line of their file and are left '
            'out'
        )
    bare = [f for f, result in pairs if not result.has_label_file]
    if bare:
        remarks.warnings.append(
            f'{len(bare)} of {count} {split} images have no label file, and count as images '
            f'without objects {example(bare)}: that of the first should be {label_file(bare[0])}; '
            'add the label files, or empty ones where there is nothing to detect'
        )
    beside = [f for f, r in pairs if r.has_label_file and not label_file(f).is_file()]
    if beside:
        remarks.warnings.append(
            f'{len(beside)} of {count} {split} images have no label file where it should be, such '
            f'as {label_file(beside[0])}: the one beside the image is used {example(beside)}'
        )
    cut = sum(label.is_cut for label in labels)
    if cut:
        first = next(f for f, r in pairs if any(label.is_cut for label in r.labels))
        remarks.warnings.append(
            f'{cut} of {len(labels)} {split} boxes extend beyond their image and are cut at its '
            f'border, first in {find_label_file(first)}; look at them in the picture of the check'
        )
    boxes = [label for label in labels if label.kind == 'box']
    if len(boxes) >= _MANY_BOXES and all(map(could_be_corners, boxes)):
        remarks.warnings.append(
            f'all {len(boxes)} {split} boxes could be x1, y1, x2, y2 as well as centre, width and '
            'height, which they are taken for; look at them in the picture of the check'
        )
    broken = [(f, r.problem) for f, r in pairs if r.size is None]
    if broken:
        file, problem = broken[0]
        remarks.warnings.append(
            f'{len(broken)} of {count} {split} images are left out, because they cannot be read, '
            f'first {file} ({problem})'
        )
    return remarks


def _unpaired_labels(data: YoloData) -> list[str]:
    """Returns warnings of label files that belong to no picture, or to several."""
    images = [image for files in data.images.values() for image in files]
    used = Counter(filter(None, map(find_label_file, dict.fromkeys(images))))
    warnings = []
    shared = [path for path, times in used.items() if times > 1]
    if shared:
        warnings.append(
            f'{len(shared)} label files belong to several pictures, whose names differ only in '
            f'their ending {example(shared)}; keep one picture for each'
        )
    stray = [
        path
        for path in _texts_beside([*map(label_file, images), *images])
        if path not in used and path.name.lower() not in NAME_FILES
        if path.stat().st_size == 0 or looks_like_labels(path)
    ]
    if stray:
        warnings.append(
            f'{len(stray)} label files belong to no picture of {data.path}, and are not used '
            f'{example(stray)}; add their pictures, named alike, or remove them'
        )
    return warnings


def _unused_pictures(data: YoloData) -> list[str]:
    """Returns a warning of pictures beside those of the splits, such as a split without a key."""
    used = {image for files in data.images.values() for image in files}
    if not used:
        return []
    bare = [image for image in DataFolder(common_folder(used)).images if image not in used]
    if not bare:
        return []
    return [
        f'{len(bare)} pictures are in no split of {data.path}, and are not used {example(bare)}; '
        'add them to a split, or move them away'
    ]


def _texts_beside(files: Iterable[Path]) -> list[Path]:
    """Returns the text files in the folders of some files, and below folders called 'labels'."""
    folders = list(dict.fromkeys(path.parent for path in files))
    tops = {folder for folder in folders if 'labels' in folder.parts}
    texts = [
        path
        for folder in _outermost(tops)
        if folder.is_dir()
        for path in DataFolder(folder).with_suffix('.txt')
    ]
    for folder in folders:
        if folder not in tops and folder.is_dir():
            texts += sorted(path for path in folder.glob('*.txt') if path.is_file())
    return list(dict.fromkeys(texts))


def _outermost(folders: Iterable[Path]) -> list[Path]:
    folders = set(folders)
    return sorted(f for f in folders if not folders.intersection(f.parents))


def absolute(files: Iterable[Path]) -> list[Path]:
    """Returns absolute paths, each once, with ``..`` resolved and links kept."""
    return list(dict.fromkeys(Path(os.path.abspath(file)) for file in files))
