"""Finds the annotation files and image folders of a dataset in COCO's format."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError
from .coco_file import CocoFile

SPLIT_NAMES = {
    'train': ('train', 'training'),
    'val': ('val', 'valid', 'validation'),
    'test': ('test', 'testing'),
}
ROBOFLOW_FILE = '_annotations.coco.json'
_ANNOTATION_FOLDERS = ('annotations', 'Annotations', '.')
_IMAGE_FOLDERS = ('images', 'data', 'imgs', 'JPEGImages', '.')
# Names of COCO's own files that have no boxes.
_WITHOUT_BOXES = ('captions', 'image_info', 'panoptic', 'stuff', 'unlabeled')
# Number of file names of an annotation file that are looked up to recognise its image folder.
_NUM_SAMPLED = 20

LOOKED_FOR = (
    'annotations/*.json or *.json with train, val or test in the name',
    f'train/, valid/ or val/, test/ with {ROBOFLOW_FILE} or another .json',
    'a single annotation file, part of which becomes the val split',
)


def find_annotation_files(root: Path) -> dict[str, Path]:
    """Finds the annotation file of each split by the names of files and folders.

    Returns:
        The files that were found, by 'train', 'val' and 'test'.

    Raises:
        InputError: If a split has several.
    """
    found = {}
    for split in SPLIT_NAMES:
        candidates = sorted(set(_candidates(root, split)), key=lambda path: (_rank(path), path))
        best = [path for path in candidates if _rank(path) == _rank(candidates[0])]
        if len(best) > 1:
            names = ', '.join(str(path.relative_to(root)) for path in best)
            raise InputError(
                f'{root} has several annotation files for the {split} split ({names}); keep one '
                'of them there, or write a config that names it'
            )
        if best:
            found[split] = best[0]
    return found


def find_single_annotation_file(root: Path) -> Path | None:
    """Returns the annotation file of a folder that has exactly one, whatever its name."""
    files = [file for folder in _ANNOTATION_FOLDERS for file in _json_files(root / folder)]
    return files[0] if len(files) == 1 else None


def find_image_folder(root: Path, split: str, coco: CocoFile) -> Path:
    """Finds the folder that the file names of an annotation file are relative to.

    Raises:
        InputError: If no folder has any of the images.
    """
    if not coco.images:
        raise InputError(f"annotation file '{coco.path}' lists no images; correct it")
    step = -(-len(coco.images) // _NUM_SAMPLED)
    names = [str(image['file_name']) for image in coco.images[::step]]
    candidates = list(dict.fromkeys(_image_folders(root, split, Path(coco.path))))
    counts = [sum((folder / name).is_file() for name in names) for folder in candidates]
    if not any(counts):
        places = ', '.join(str(folder) for folder in candidates)
        raise InputError(
            f"the images of '{coco.path}' (first {names[0]!r}) were not found; looked in {places}"
        )
    return candidates[counts.index(max(counts))]


def split_of(name: str) -> str | None:
    """Returns the split that a word of a file or folder name says, as in 'train2017'."""
    words = re.findall('[a-z]+', name.lower())
    return next((s for s, names in SPLIT_NAMES.items() if any(n in words for n in names)), None)


def _candidates(root: Path, split: str) -> Iterator[Path]:
    for folder in _ANNOTATION_FOLDERS:
        yield from (path for path in _json_files(root / folder) if split_of(path.stem) == split)
    for folder in _split_folders(root, split):
        for path in (*_json_files(folder), *_json_files(folder / 'annotations')):
            if split_of(path.stem) in (None, split):
                yield path


def _rank(path: Path) -> int:
    """Returns a lower number for names that say more clearly that a file has the boxes."""
    if path.name == ROBOFLOW_FILE or path.name.startswith('instances'):
        return 0
    return 2 if path.name.startswith('person_keypoints') else 1


def _json_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = sorted(path for path in folder.glob('*.json') if path.is_file())
    return [file for file in files if not file.name.startswith(_WITHOUT_BOXES)]


def _split_folders(base: Path, split: str, stem: str = '') -> list[Path]:
    """Returns the folders of a split, first the one that has the name of the annotation file."""
    if not base.is_dir():
        return []
    found = [path for path in base.iterdir() if path.is_dir() and split_of(path.name) == split]
    return sorted(found, key=lambda path: (path.name not in stem, path.name))


def _image_folders(root: Path, split: str, ann_file: Path) -> Iterator[Path]:
    if ann_file.parent != root and split_of(ann_file.parent.name) == split:
        yield ann_file.parent
    for base in (root, *(root / name for name in _IMAGE_FOLDERS)):
        for folder in _split_folders(base, split, ann_file.stem):
            yield folder
            yield folder / 'images'
    for name in _IMAGE_FOLDERS:
        yield Path(os.path.normpath(root / name))
    yield ann_file.parent
