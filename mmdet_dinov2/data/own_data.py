"""Finds the splits, files and classes of a user's dataset from its folder alone.

It understands COCO annotations in the usual layouts (:mod:`.coco_layouts`) and YOLO datasets
(:mod:`.yolo`). It only reads the user's files. Annotations converted from YOLO, and those of a val
split taken from the training images, are written to a folder of the caller under names that depend
on the content, so that a config keeps pointing to the files that it was trained with.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..errors import InputError
from ..files import write_text
from ..wording import name_some
from .coco_file import CocoFile, read_coco_file
from .coco_layouts import (
    LOOKED_FOR,
    find_annotation_files,
    find_image_folder,
    find_single_annotation_file,
)
from .yolo import YoloData, find_data_yaml, fingerprint, read_data_yaml, to_coco

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
    """

    root: str
    classes: tuple[str, ...]
    splits: dict[str, OwnSplit]
    notes: tuple[str, ...]


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
    if path.is_file() and path.suffix not in ('.yaml', '.yml'):
        raise InputError(
            f'{path} is a file; give the folder of the dataset, or the data.yaml of a YOLO dataset'
        )
    notes: list[str] = []
    files = find_annotation_files(path) if path.is_dir() else {}
    data_yaml = None if files else find_data_yaml(path)
    single = find_single_annotation_file(path) if path.is_dir() and not files else None
    if files:
        cocos, folders = _read_coco(path, files, notes)
    elif data_yaml is not None:
        cocos, folders = _read_yolo(read_data_yaml(data_yaml), cache, notes)
    elif single is not None:
        cocos, folders = _read_coco(path, {'train': single}, notes)
    else:
        raise InputError(_nothing_found(path))
    if not cocos:
        raise InputError(f"{data_yaml} names no images; add 'train' and 'val'")
    if 'train' in cocos and 'val' not in cocos:
        cocos['train'], cocos['val'] = _split_train(cocos['train'], cache, notes)
        folders['val'] = folders['train']
    splits = {
        split: OwnSplit(coco.path, str(folders[split]), len(coco.images))
        for split, coco in cocos.items()
    }
    return OwnData(str(path), _find_classes(cocos, notes), splits, tuple(notes))


def _read_coco(
    root: Path, files: dict[str, Path], notes: list[str]
) -> tuple[dict[str, CocoFile], dict[str, Path]]:
    cocos = {split: read_coco_file(str(file)) for split, file in files.items()}
    if 'test' in cocos and cocos['test'].annotations is None:
        file = cocos.pop('test').path
        notes.append(f'test: left out, because {file} has no annotations')
    folders = {split: find_image_folder(root, split, coco) for split, coco in cocos.items()}
    for split, coco in cocos.items():
        notes.append(
            f'{split}: {len(coco.images)} images in {folders[split]}, annotations {coco.path}'
        )
    return cocos, folders


def _read_yolo(
    data: YoloData, cache: Path, notes: list[str]
) -> tuple[dict[str, CocoFile], dict[str, Path]]:
    cocos, folders = {}, {}
    for split, files in data.images.items():
        folders[split] = Path(os.path.commonpath([file.parent for file in files]))
        target = cache / f'{split}-{fingerprint(data, split)}.json'

        def convert(split: str = split) -> dict[str, Any]:
            content, _, problems = to_coco(data, split)
            return dict(content, info=dict(description=f'{data.path}, {split}', notes=problems))

        _write_once(target, convert)
        cocos[split] = read_coco_file(str(target))
        notes.append(
            f'{split}: {len(cocos[split].images)} images in {folders[split]}, converted from the '
            f'YOLO labels of {data.path} to {target}'
        )
        notes += json.loads(target.read_text())['info']['notes']
    return cocos, folders


def _split_train(train: CocoFile, cache: Path, notes: list[str]) -> tuple[CocoFile, CocoFile]:
    """Splits the training images into training and validation, the same way every time."""
    if len(train.images) < 2:
        raise InputError(
            f"'{train.path}' has {len(train.images)} image and there is no val split; at least 2 "
            'images are needed, one to train and one to validate: add some'
        )
    count = max(1, min(round(VAL_SHARE * len(train.images)), MAX_VAL_IMAGES))
    ids = sorted((image['id'] for image in train.images), key=str)
    chosen = set(random.Random(VAL_SEED).sample(ids, count))
    digest = hashlib.sha1(Path(train.path).read_bytes())
    digest.update(repr((VAL_SHARE, MAX_VAL_IMAGES, VAL_SEED)).encode())
    targets = {part: cache / f'{part}-{digest.hexdigest()[:10]}.json' for part in ('train', 'val')}
    for part, target in targets.items():

        def select(keep: bool = part == 'val') -> dict[str, Any]:
            return dict(
                images=[image for image in train.images if (image['id'] in chosen) == keep],
                annotations=[
                    entry
                    for entry in train.annotations or ()
                    if (entry['image_id'] in chosen) == keep
                ],
                categories=train.categories,
            )

        _write_once(target, select)
    notes.append(
        f'there is no val split: {count} of the {len(train.images)} training images, drawn with '
        f'seed {VAL_SEED}, are used to validate instead of to train ({targets["val"]})'
    )
    return read_coco_file(str(targets['train'])), read_coco_file(str(targets['val']))


def _find_classes(cocos: dict[str, CocoFile], notes: list[str]) -> tuple[str, ...]:
    """Returns the class names of the first split, without the heading that Roboflow adds."""
    first = next(iter(cocos.values()))
    used = {entry['category_id'] for coco in cocos.values() for entry in coco.annotations or ()}
    categories = first.categories
    if not categories:
        raise InputError(
            f"'{first.path}' lists no categories, so there is nothing to detect; list the classes"
        )
    heading, *others = categories
    if (
        others
        and heading['id'] not in used
        and all(category.get('supercategory') == heading['name'] for category in others)
    ):
        notes.append(
            f'category {heading["name"]!r} (id {heading["id"]}) is not a class: it has no boxes '
            'and is the supercategory of all others'
        )
        categories = others
    names = tuple(str(category['name']) for category in categories)
    notes.append(f'{len(names)} class{"es" if len(names) > 1 else ""}: {name_some(names)}')
    return names


def _nothing_found(path: Path) -> str:
    places = '; '.join(LOOKED_FOR)
    message = (
        f'no dataset found in {path}: looked for COCO annotations ({places}) and for a YOLO '
        "data.yaml with 'train' and 'names'"
    )
    if path.is_dir():
        names = sorted(entry.name + '/' * entry.is_dir() for entry in path.iterdir())
        message += f'; it holds {name_some(names, limit=8) if names else "nothing"}'
        inside = [entry for entry in path.iterdir() if entry.is_dir() and _looks_like_data(entry)]
        if inside:
            message += f'; did you mean {inside[0]}?'
    return message


def _looks_like_data(folder: Path) -> bool:
    with suppress(InputError, OSError):
        return bool(find_annotation_files(folder) or find_data_yaml(folder))
    return False


def _write_once(target: Path, make: Callable[[], dict[str, Any]]) -> None:
    """Writes a JSON file unless it exists; of several processes only one writes it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / '.lock'):
        if not target.is_file():
            write_text(target, json.dumps(make()))
