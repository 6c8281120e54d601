"""A user's data set from its folder alone: which files belong to which split, and the classes.

Understood are COCO annotations in the usual layouts (:mod:`.coco_layouts`) and YOLO data sets
(:mod:`.yolo`). The user's files are only read. What has to be written, annotations converted from
YOLO or a val split taken from the training images, goes to a folder of the caller under names that
depend on the content, so that a config keeps pointing to what it was trained with.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..wording import name_some
from .coco_file import CocoFile, read_coco_file
from .coco_layouts import (
    LOOKED_FOR,
    find_annotation_files,
    find_image_folder,
    find_single_annotation_file,
)
from .yolo import YoloData, find_data_yaml, fingerprint, read_data_yaml, to_coco

# Without a val split, this share of the training images becomes one; larger ones only take time.
VAL_SHARE = 0.2
MAX_VAL_IMAGES = 1000
VAL_SEED = 0


@dataclass(frozen=True)
class OwnSplit:
    """One split of a data set.

    Attributes:
        ann_file: COCO annotation file, an absolute path.
        image_folder: What its file names are relative to, an absolute path.
        num_images: Number of images.
    """

    ann_file: str
    image_folder: str
    num_images: int


@dataclass(frozen=True)
class OwnData:
    """A data set that was found in a folder.

    Attributes:
        root: The folder.
        classes: Class names, in the order of the annotations.
        splits: By 'train', 'val' and 'test', as far as there are any.
        notes: What a person should know about how the folder was understood, as sentences.
    """

    root: str
    classes: tuple[str, ...]
    splits: dict[str, OwnSplit]
    notes: tuple[str, ...]


def find_own_data(path: str | os.PathLike, cache: str | os.PathLike) -> OwnData:
    """Finds out what a folder of annotated images holds.

    Any number of processes may call this at the same time.

    Args:
        path: The folder, or the data.yaml of a YOLO data set.
        cache: Folder for what has to be written. It is made if needed.

    Returns:
        The data set, with a val split if it has a train split.

    Raises:
        FileNotFoundError: If there is no such folder.
        InputError: If it is no data set, or one that cannot be used.
    """
    path, cache = Path(os.path.abspath(path)), Path(os.path.abspath(cache))
    if not path.exists():
        raise FileNotFoundError(f'data set {path} does not exist; check the path after --data')
    if path.is_file() and path.suffix not in ('.yaml', '.yml'):
        raise InputError(
            f'{path} is a file: give the folder of the data set, or the data.yaml of a YOLO one'
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
        raise InputError(f"{data_yaml} names no images; it needs 'train' and 'val'")
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
        notes.append(f'{file} has no annotations and is left out')
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
    """Divides the training images into training and validation, the same way every time."""
    if len(train.images) < 2:
        raise InputError(
            f"'{train.path}' has {len(train.images)} image and there is no val split; at least 2 "
            'images are needed, one to train and one to validate with'
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
        f'seed {VAL_SEED}, are used to validate and not to train ({targets["val"]})'
    )
    return read_coco_file(str(targets['train'])), read_coco_file(str(targets['val']))


def _find_classes(cocos: dict[str, CocoFile], notes: list[str]) -> tuple[str, ...]:
    """Class names of the first split, without a heading that Roboflow writes as a class."""
    first = next(iter(cocos.values()))
    used = {entry['category_id'] for coco in cocos.values() for entry in coco.annotations or ()}
    categories = first.categories
    if not categories:
        raise InputError(f"'{first.path}' lists no categories, so there is nothing to detect")
    heading, *others = categories
    if (
        others
        and heading['id'] not in used
        and all(category.get('supercategory') == heading['name'] for category in others)
    ):
        notes.append(
            f'category {heading["name"]!r} (id {heading["id"]}) has no boxes and is only the '
            'heading of the others: it is no class'
        )
        categories = others
    names = tuple(str(category['name']) for category in categories)
    notes.append(f'{len(names)} class{"es" if len(names) > 1 else ""}: {name_some(names)}')
    return names


def _nothing_found(path: Path) -> str:
    places = '; '.join(LOOKED_FOR)
    message = (
        f'no data set found in {path}: looked for COCO annotations ({places}) and for a YOLO '
        "data.yaml with 'train' and 'names'"
    )
    if path.is_dir():
        names = sorted(entry.name + '/' * entry.is_dir() for entry in path.iterdir())
        message += f'; there is {name_some(names, limit=8) if names else "nothing"}'
        inside = [entry for entry in path.iterdir() if entry.is_dir() and _looks_like_data(entry)]
        if inside:
            message += f'; did you mean {inside[0]}?'
    return message


def _looks_like_data(folder: Path) -> bool:
    with suppress(InputError, OSError):
        return bool(find_annotation_files(folder) or find_data_yaml(folder))
    return False


def _write_once(target: Path, make: Callable[[], dict[str, Any]]) -> None:
    """Writes a JSON file unless it is there, whole or not at all, by one process of many."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.parent / '.lock'):
        if target.is_file():
            return
        with tempfile.NamedTemporaryFile(
            'w', dir=target.parent, prefix=f'.{target.name}.', delete=False
        ) as draft:
            try:
                json.dump(make(), draft)
                draft.flush()
                os.fsync(draft.fileno())
                os.chmod(draft.name, 0o644)
                os.replace(draft.name, target)
            except BaseException:
                os.unlink(draft.name)
                raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open('w') as file:
        # Where files cannot be locked, every process writes: the same content, at once.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
