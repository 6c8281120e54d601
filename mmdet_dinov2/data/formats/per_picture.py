"""Formats with one annotation file for each picture: pairing, classes and splits."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ...errors import InputError
from ..data_folder import DataFolder
from ..splits import SPLITS, split_of_folders
from .found import (
    FoundData,
    Picture,
    PictureBox,
    Remarks,
    example,
    number_classes,
    split_of_pictures,
    upright_size,
)

# Folders of pictures; masks have the same names elsewhere.
_IMAGE_FOLDERS = ('images', 'jpegimages', 'imgs', 'img')


class NamedBox(NamedTuple):
    """A box in pixels, the name of its class, and its mask as polygons, if it is known."""

    name: str
    x: float
    y: float
    width: float
    height: float
    polygons: Sequence[Sequence[float]] = ()


@dataclass(frozen=True)
class PictureFile:
    """The annotation file of one picture.

    Attributes:
        path: The annotation file.
        image_name: The name of the picture that it gives, as it stands; may be empty.
        size: ``(width, height)`` in pixels that it gives, or ``None``.
        boxes: Its boxes.
    """

    path: Path
    image_name: str
    size: tuple[float, float] | None
    boxes: Sequence[NamedBox]


def found_pictures(
    format_: str,
    folder: DataFolder,
    files: Sequence[PictureFile],
    remarks: Remarks,
    split_of_file: Callable[[PictureFile], str | None] | None = None,
) -> FoundData:
    """Returns annotation files of single pictures in the form that all formats share.

    Args:
        format_: Name of the format, for messages.
        folder: The folder of the dataset.
        files: The annotation files.
        remarks: Remarks of the reader, to which more are added.
        split_of_file: Returns the split of a file, or ``None`` if it is not used; by default what
            the names of the folders say.

    Raises:
        InputError: If no annotation file has its picture.
    """
    images = pair_images(folder, files)
    paired = [(file, images[file.path]) for file in files if file.path in images]
    alone = [file.path for file in files if file.path not in images]
    if not paired:
        raise InputError(
            f'{folder.root} has {len(files)} {format_} files, but none of their pictures '
            f'({files[0].path.name} names {files[0].image_name!r}); put the pictures beside them '
            "or into a folder 'images'"
        )
    if alone:
        remarks.warnings.append(
            f'{len(alone)} of {len(files)} {format_} files have no picture, and are not used '
            f'{example([folder.relative(path) for path in alone])}; add the pictures, named alike'
        )
    taken, stems = set(images.values()), {file.path.stem for file in files}
    # Masks have the name of their picture.
    bare = [
        folder.relative(path)
        for path in folder.images
        if path not in taken and path.stem not in stems
    ]
    if bare:
        remarks.warnings.append(
            f'{len(bare)} pictures have no {format_} file, and are not used {example(bare)}; '
            'annotate them, or save an annotation file without objects if there are none'
        )
    by_split = _split(folder, paired, split_of_file, remarks)
    labels = number_classes(
        box.name for pairs in by_split.values() for file, _ in pairs for box in file.boxes
    )
    if not labels:
        raise InputError(f'the {format_} files in {folder.root} have no boxes; add some')
    splits = {}
    for split in SPLITS:
        if split in by_split:
            pictures = [_picture(file, image, labels) for file, image in by_split[split]]
            usable = [picture for picture in pictures if picture is not None]
            _name_unreadable(split, pictures, by_split[split], remarks)
            if usable:
                origin = f'the {format_} files in {folder.root}'
                splits[split] = split_of_pictures(usable, tuple(labels), origin)
    return FoundData(format_, tuple(labels), splits, remarks)


def pair_images(folder: DataFolder, files: Sequence[PictureFile]) -> dict[Path, Path]:
    """Returns the picture of each annotation file that has one, by the path of the file.

    It is the one with the same name but for the ending, else the one that the file names. Of
    several, the one in the nearest folder counts.
    """
    by_stem, by_name = defaultdict(list), defaultdict(list)
    for image in folder.images:
        by_stem[image.stem].append(image)
        by_name[image.name].append(image)
    pairs = {}
    for file in files:
        named = posixpath.basename(file.image_name.replace('\\', '/'))
        alike = by_stem.get(file.path.stem, ())
        # 'a.jpg.json' is beside 'a.jpg'
        alike = alike or by_name.get(file.path.stem, ()) or by_name.get(named, ())
        image = _nearest(folder, file, named, alike)
        if image is not None:
            pairs[file.path] = image
    return pairs


def _nearest(
    folder: DataFolder, file: PictureFile, named: str, images: Sequence[Path]
) -> Path | None:
    """Returns the picture whose folders are most like those of the annotation file."""
    if len(images) < 2:
        return images[0] if images else None
    own = folder.parts(file.path)

    def likeness(image: Path) -> tuple[bool, int, bool, bool]:
        parts = folder.parts(image)
        in_images = any(part.lower() in _IMAGE_FOLDERS for part in parts)
        return parts == own, len({*own} & {*parts}), image.name == named, in_images

    ranked = sorted(images, key=likeness)
    return ranked[-1] if likeness(ranked[-1]) > likeness(ranked[-2]) else None


def _split(
    folder: DataFolder,
    paired: Sequence[tuple[PictureFile, Path]],
    split_of_file: Callable[[PictureFile], str | None] | None,
    remarks: Remarks,
) -> dict[str, list[tuple[PictureFile, Path]]]:
    by_split = defaultdict(list)
    for file, image in paired:
        if split_of_file is not None:
            split = split_of_file(file)
        else:
            split = split_of_folders(folder.parts(file.path))
            split = split or split_of_folders(folder.parts(image))
        by_split[split].append((file, image))
    rest = by_split.pop(None, [])
    if 'train' not in by_split and rest and split_of_file is None:
        by_split['train'] = rest
    elif rest:
        names = [folder.relative(file.path) for file, _ in rest]
        where = 'no list of a split names them' if split_of_file else 'their folders tell no split'
        remarks.warnings.append(
            f'{len(rest)} annotation files are not used, because {where} {example(names)}; add '
            'them to a split, or move them away'
        )
    return by_split


def _picture(file: PictureFile, image: Path, labels: Mapping[str, int]) -> Picture | None:
    size = file.size or upright_size(image)
    if size is None:
        return None
    return Picture(image, size, [PictureBox(labels[box.name], *box[1:]) for box in file.boxes])


def _name_unreadable(
    split: str,
    pictures: Sequence[Picture | None],
    pairs: Sequence[tuple[PictureFile, Path]],
    remarks: Remarks,
) -> None:
    broken = [image for p, (_, image) in zip(pictures, pairs, strict=True) if p is None]
    if broken:
        remarks.warnings.append(
            f'{len(broken)} of {len(pairs)} {split} images are left out, because they cannot be '
            f'read and their annotation files give no size {example(broken)}; repair them'
        )
