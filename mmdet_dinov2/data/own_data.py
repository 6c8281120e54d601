"""Finds the splits, files and classes of a user's dataset from its folder alone.

The formats are those of :mod:`.formats`. The user's files are only read. Annotations that had to be
converted or completed, and those of a val split taken from the training images, are written to a
folder of the caller under names that depend on the content, so that a config keeps pointing to the
files that it was trained with.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock

from ..errors import InputError
from ..files import write_text
from ..wording import name_some, printable
from .annotation_columns import AnnotationColumns
from .annotation_file import read_annotations, read_entries
from .data_folder import CACHE_LOCK, DataFolder
from .formats import READERS
from .formats.coco import LOOKED_FOR
from .formats.found import FoundData, FoundSplit, Remarks, example, fingerprint
from .formats.json_kinds import json_kind
from .formats.unknown import describe_folder, name_other_formats
from .formats.yolo import find_data_yaml, read_data_yaml
from .formats.yolo_data import found_data
from .predicted_boxes import find_predicted, merge_predicted
from .splits import SPLITS
from .text_file import read_json

# Fraction of the training images that becomes the val split if there is none, up to a limit
# beyond which evaluations only take longer.
VAL_SHARE = 0.2
MAX_VAL_IMAGES = 1000
VAL_SEED = 0


@dataclass(frozen=True)
class OwnSplit:
    """One split of a dataset.

    Attributes:
        ann_file: Absolute path of the COCO annotation file.
        image_folder: Absolute path of the folder that its file names are relative to.
        num_images: Number of images.
    """

    ann_file: str
    image_folder: str
    num_images: int


@dataclass(frozen=True)
class OwnData:
    """A dataset that was found in a folder.

    Attributes:
        root: The folder.
        classes: Class names, in the order of the annotations.
        splits: The splits that were found, by 'train', 'val' and 'test'.
        notes: How the folder was understood, as sentences for the user.
        warnings: What is not used, or may be a mistake, as sentences for the user.
    """

    root: str
    classes: tuple[str, ...]
    splits: dict[str, OwnSplit]
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()


class _Converted(msgspec.Struct):
    """A converted annotation file, of which only the remarks are decoded."""

    info: dict[str, Any]


def find_own_data(path: str | os.PathLike, cache: str | os.PathLike) -> OwnData:
    """Finds the dataset in a folder.

    Any number of processes may call this at the same time.

    Args:
        path: The folder, or the data.yaml of a YOLO dataset.
        cache: Folder for converted annotations; created if needed.

    Returns:
        The dataset, with a val split if it has a train split.

    Raises:
        FileNotFoundError: If there is no such folder.
        InputError: If it does not hold a dataset, or one that cannot be used.
    """
    path, cache = Path(os.path.abspath(path)), Path(os.path.abspath(cache))
    if not path.exists():
        raise FileNotFoundError(f'dataset {path} does not exist; check the path after --data')
    if path.is_file() and path.suffix.lower() not in ('.yaml', '.yml'):
        raise InputError(
            f'{path} is a file; give the folder of the dataset, or the data.yaml of a YOLO dataset'
        )
    folder = DataFolder(path if path.is_dir() else path.parent, skipped=cache)
    found = _find(path, folder)
    if not found.splits:
        raise InputError(f"{path} names no images; add 'train' and 'val'")
    remarks = Remarks()
    remarks.add(found.remarks)
    cocos = {
        split: _annotations(split, found.splits[split], cache, remarks)
        for split in SPLITS
        if split in found.splits
    }
    folders = {split: found.splits[split].folder for split in cocos}
    remarks.warnings += _shared_pictures(cocos, folders)
    if 'train' in cocos and 'val' not in cocos:
        cocos['train'], cocos['val'] = _split_train(cocos['train'], cache, remarks)
        folders['val'] = folders['train']
    if 'train' in cocos:
        _add_predicted(cocos, folders, folder, cache, remarks)
    count = len(found.classes)
    remarks.notes.append(f'{count} class{"es" if count > 1 else ""}: {name_some(found.classes)}')
    splits = {
        split: OwnSplit(coco.path, str(folders[split]), coco.num_images)
        for split, coco in cocos.items()
    }
    notes, warnings = (tuple(map(printable, said)) for said in (remarks.notes, remarks.warnings))
    return OwnData(str(path), found.classes, splits, notes, warnings)


def _find(path: Path, folder: DataFolder) -> FoundData:
    if path.is_file():
        return found_data(read_data_yaml(path))
    found = next(filter(None, (find(folder) for find in READERS.values())), None)
    if found is None:
        raise InputError(_nothing_found(folder))
    found.remarks.notes.extend(name_other_formats(folder, found.format))
    # Of YOLO, only the folders that the data.yaml names matter.
    if folder.dead_links and found.format != 'YOLO':
        links = [folder.relative(link) for link in folder.dead_links]
        found.remarks.warnings.append(
            f'{len(links)} links in {path} lead nowhere {example(links)}; repair or remove them'
        )
    return found


def _annotations(split: str, found: FoundSplit, cache: Path, remarks: Remarks) -> AnnotationColumns:
    """Returns the annotation file of a split, written first if it is converted or completed."""
    if found.coco is not None:
        count = found.coco.num_images
        remarks.notes.append(f'{split}: {count} images in {found.folder}, {found.origin}')
        return found.coco
    target = cache / f'{split}-{found.fingerprint}.json'

    def convert() -> dict[str, Any]:
        content, said = found.read()
        info = dict(
            description=f'{found.origin}, {split}', notes=said.notes, warnings=said.warnings
        )
        return dict(content, info=info)

    write_once(target, convert)
    coco = read_annotations(str(target))
    remarks.notes.append(
        f'{split}: {coco.num_images} images in {found.folder}, converted from {found.origin} to '
        f'{target}'
    )
    remarks.add(_remarks_of(target.read_bytes()))
    return coco


def info_of(written: bytes) -> dict[str, Any]:
    """Returns the ``info`` in the text of a file that :func:`write_once` wrote."""
    try:
        return msgspec.json.decode(written, type=_Converted).info
    except msgspec.DecodeError:  # names of files that are no UTF-8
        return json.loads(written)['info']


def _remarks_of(converted: bytes) -> Remarks:
    """Returns the remarks in the text of a converted annotation file."""
    info = info_of(converted)
    return Remarks(info['notes'], info['warnings'])


def _shared_pictures(cocos: dict[str, AnnotationColumns], folders: dict[str, Path]) -> list[str]:
    """Returns a warning for each split that has pictures of the training."""
    paths = {
        split: {os.path.join(folders[split], name) for name in coco.file_names}
        for split, coco in cocos.items()
    }
    warnings = []
    for split in ('val', 'test'):
        shared = sorted(paths.get('train', set()) & paths.get(split, set()))
        if shared:
            warnings.append(
                f'{len(shared)} of {len(paths[split])} {split} images are also in the training '
                f'data {example(shared)}, so the scores are too high; remove them from one of the '
                'two'
            )
    return warnings


def _split_train(
    train: AnnotationColumns, cache: Path, remarks: Remarks
) -> tuple[AnnotationColumns, AnnotationColumns]:
    """Splits the training images into training and validation, the same way every time."""
    if train.num_images < 2:
        raise InputError(
            f"'{train.path}' has {train.num_images} image and there is no val split; at least 2 "
            'images are needed, one to train and one to validate: add some'
        )
    count = max(1, min(round(VAL_SHARE * train.num_images), MAX_VAL_IMAGES))
    ids = sorted(train.image_ids, key=str)
    chosen = set(random.Random(VAL_SEED).sample(ids, count))
    digest = hashlib.sha1(Path(train.path).read_bytes())
    digest.update(repr((VAL_SHARE, MAX_VAL_IMAGES, VAL_SEED)).encode())
    targets = {part: cache / f'{part}-{digest.hexdigest()[:10]}.json' for part in ('train', 'val')}
    read = functools.cache(read_entries)
    for part, target in targets.items():

        def select(keep: bool = part == 'val') -> dict[str, Any]:
            entries = read(train.path)
            return dict(
                images=[image for image in entries['images'] if (image['id'] in chosen) == keep],
                annotations=[
                    entry
                    for entry in entries.get('annotations', ())
                    if (entry['image_id'] in chosen) == keep
                ],
                categories=train.categories,
            )

        write_once(target, select)
    remarks.notes.append(
        f'there is no val split: {count} of the {train.num_images} training images, drawn with '
        f'seed {VAL_SEED}, are used to validate instead of to train ({targets["val"]})'
    )
    return read_annotations(str(targets['train'])), read_annotations(str(targets['val']))


def _add_predicted(
    cocos: dict[str, AnnotationColumns],
    folders: dict[str, Path],
    folder: DataFolder,
    cache: Path,
    remarks: Remarks,
) -> None:
    """Adds photos with predicted boxes to the training split, in place."""
    files = find_predicted(folder)
    if not files:
        return
    scored = {
        split: [os.path.join(folders[split], name) for name in cocos[split].file_names]
        for split in cocos
        if split != 'train'
    }
    merged = merge_predicted(files, cocos['train'], folders['train'], scored, folder, remarks)
    if merged is None:
        return
    target = cache / f'train-{fingerprint(merged.content, str(merged.folder))}.json'
    write_once(target, lambda: merged.content)
    cocos['train'], folders['train'] = read_annotations(str(target)), merged.folder


def _nothing_found(folder: DataFolder) -> str:
    for file in folder.with_suffix('.json'):
        if json_kind(file) == 'broken':
            read_json(file)  # raises, with the place of the mistake
    inside = [entry for entry in folder.root.iterdir() if entry.is_dir() and _has_yaml(entry)]
    if inside:
        return (
            f'no dataset found in {folder.root}, but {inside[0]} has a YOLO data file; did you '
            f'mean {inside[0]}?'
        )
    return (
        f'no dataset found in {folder.root}: {describe_folder(folder)} (looked for COCO '
        f"annotations ({'; '.join(LOOKED_FOR)}), for a YOLO data.yaml with 'train' and 'names' or "
        'a classes.txt, for XML files of Pascal VOC and for files of labelme)'
    )


def _has_yaml(folder: Path) -> bool:
    with suppress(InputError, OSError):
        return find_data_yaml(folder) is not None
    return False


def write_once(target: Path, make: Callable[[], dict[str, Any]]) -> None:
    """Writes a JSON file unless it exists; of several processes only one writes it.

    Args:
        target: The file; its folder is made if needed.
        make: Returns the content.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / CACHE_LOCK):
        if not target.is_file():
            write_text(target, json.dumps(make()))
