"""Finds datasets with COCO annotation files, in the layouts and variants of many tools.

What a tool left out is filled in, in a copy: sizes from the pictures, and names that lead to the
pictures. A file that needs nothing is used as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from operator import ne
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ..annotation_columns import AnnotationColumns
from ..annotation_file import read_annotations, read_entries
from ..coco_file import SIZE_KEYS
from ..data_folder import DataFolder, is_no_data
from ..similar_files import suggest_file
from ..splits import SPLITS, is_trainval, split_of, split_of_folders
from .found import FoundData, FoundSplit, Remarks, example, fingerprint, upright_size
from .image_names import LocatedImages, locate_images
from .json_kinds import is_predicted, json_kind

ROBOFLOW_FILE = '_annotations.coco.json'
_IMAGE_FOLDERS = ('images', 'data', 'imgs', 'JPEGImages', '.')
# Names of COCO's own files that have no boxes.
_WITHOUT_BOXES = ('captions', 'image_info', 'panoptic', 'stuff', 'unlabeled')
# Number of folders between the root and an annotation file.
_MAX_DEPTH = 3

LOOKED_FOR = (
    'annotations/*.json or *.json with train, val or test in the name',
    f'train/, valid/ or val/, test/ with {ROBOFLOW_FILE} or another .json',
    'a single annotation file, part of which becomes the val split',
)


def find(folder: DataFolder) -> FoundData | None:
    """Finds a dataset with COCO annotation files in a folder.

    Raises:
        InputError: If a split has several files, no name tells a split, or a file cannot be used.
    """
    remarks = Remarks()
    files = find_annotation_files(folder, remarks)
    if not files:
        return None
    cocos = _read(files, remarks)
    passed_over = _take_unannotated(cocos, remarks)
    if not cocos:
        return None
    located = {split: _locate(folder, split, coco) for split, coco in cocos.items()}
    remarks.warnings += _unlisted(folder, located, passed_over)
    categories = _find_classes(cocos, remarks)
    splits = {split: _found_split(coco, located[split], remarks) for split, coco in cocos.items()}
    return FoundData('COCO', tuple(category['name'] for category in categories), splits, remarks)


def find_annotation_files(folder: DataFolder, remarks: Remarks) -> dict[str, Path]:
    """Finds the annotation file of each split by the names of files and folders.

    Every other annotation file is named in ``remarks``, with the reason.

    Returns:
        The files that were found, by 'train', 'val' and 'test'.

    Raises:
        InputError: If a split has several, or the names of several files tell no split.
    """
    candidates = _candidates(folder, remarks)
    by_split: dict[str | None, list[Path]] = {}
    for path in candidates:
        split = split_of(path.stem) or split_of_folders(folder.parts(path))
        by_split.setdefault(split, []).append(path)
    unnamed = by_split.pop(None, [])
    found = {}
    for split in SPLITS:
        files = by_split.get(split)
        if not files:
            continue
        best = min(map(_rank, files))
        chosen = sorted(path for path in files if _rank(path) == best)
        if len(chosen) > 1:
            names = ', '.join(folder.relative(path) for path in chosen)
            raise InputError(
                f'{folder.root} has several annotation files for the {split} split ({names}); keep '
                'one of them there, or write a config that names it'
            )
        found[split] = chosen[0]
        for path in files:
            if path != chosen[0]:
                remarks.notes.append(
                    f'annotation file {folder.relative(path)} is not used, because '
                    f'{folder.relative(chosen[0])} is that of the {split} split'
                )
    if 'train' not in found and len(unnamed) == 1:
        found = {'train': unnamed[0], **found}
        if len(found) > 1:
            remarks.notes.append(
                f'train: {folder.relative(unnamed[0])}, whose name tells no split, since no other '
                'file is that of the train split'
            )
        return found
    if unnamed and not found:
        names = ', '.join(folder.relative(path) for path in unnamed)
        raise InputError(
            f'{folder.root} has {len(unnamed)} annotation files whose names tell no split '
            f'({names}); give them names with train, val or test'
        )
    if unnamed:
        names = ', '.join(folder.relative(path) for path in unnamed)
        remarks.warnings.append(
            f'{len(unnamed)} annotation files are not used, because neither their names nor those '
            f'of their folders tell a split ({names}); put train, val or test into the name of '
            'each, or merge it with one of the others'
        )
    return found


def _candidates(folder: DataFolder, remarks: Remarks) -> list[Path]:
    """Returns the files that are COCO annotations, or may be."""
    files = [
        path
        for path in folder.with_suffix('.json')
        if len(folder.parts(path)) <= _MAX_DEPTH and not is_predicted(path)
    ]
    without = [path for path in files if path.name.startswith(_WITHOUT_BOXES)]
    kinds = {path: json_kind(path) for path in files if path not in without}
    coco = [path for path, kind in kinds.items() if kind == 'coco']
    if not coco:
        return []
    broken = [path for path, kind in kinds.items() if kind == 'broken' and split_of(path.stem)]
    others = [path for path, kind in kinds.items() if kind == 'other' and split_of(path.stem)]
    if without or others:
        names = ', '.join(folder.relative(path) for path in (*without, *others))
        remarks.notes.append(f'not used, because they have no COCO annotations of boxes: {names}')
    return coco + broken


def _rank(path: Path) -> int:
    """Returns a lower number for names that say more clearly that a file has the boxes."""
    if path.name.startswith('person_keypoints'):
        return 3
    if is_trainval(path.stem):
        return 2
    return 0 if path.name == ROBOFLOW_FILE or path.name.startswith('instances') else 1


def _read(files: dict[str, Path], remarks: Remarks) -> dict[str, AnnotationColumns]:
    cocos = {split: read_annotations(str(file), sizes=False) for split, file in files.items()}
    for split, coco in list(cocos.items()):
        if coco.num_images:
            continue
        if split == 'train' or len(cocos) == 1:
            raise InputError(f"annotation file '{coco.path}' lists no images; correct it")
        del cocos[split]
        remarks.warnings.append(
            f"annotation file '{coco.path}' lists no images, so there is no {split} split"
        )
    return cocos


def _take_unannotated(cocos: dict[str, AnnotationColumns], remarks: Remarks) -> set[str]:
    """Leaves out a test split without annotations; returns the names of its images."""
    if 'test' not in cocos or cocos['test'].annotated:
        return set()
    test = cocos.pop('test')
    remarks.notes.append(f'test: left out, because {test.path} has no annotations')
    return set(map(os.path.basename, test.file_names))


def _unlisted(
    folder: DataFolder, located: dict[str, LocatedImages], passed_over: set[str]
) -> list[str]:
    """Returns a warning of the pictures in the image folders that no annotation file lists."""
    tops = {found.folder for found in located.values()}
    listed = {
        os.path.normpath(found.folder / name)
        for found in located.values()
        for name in found.names.values()
    }
    bare = [
        folder.relative(image)
        for image in folder.images
        if os.fspath(image) not in listed and image.name not in passed_over
        if not tops.isdisjoint(image.parents)
    ]
    if not bare:
        return []
    return [
        f'{len(bare)} pictures are listed in no annotation file, and are not used {example(bare)}; '
        'annotate them, or list them without boxes if there is nothing to detect'
    ]


def _locate(folder: DataFolder, split: str, coco: AnnotationColumns) -> LocatedImages:
    names = list(dict.fromkeys(coco.file_names))
    sizes = {
        name: (width, height)
        for name, width, height in zip(
            coco.file_names, coco.widths.tolist(), coco.heights.tolist(), strict=True
        )
        if width and height
    }
    candidates = list(dict.fromkeys(_image_folders(folder.root, split, Path(coco.path))))
    located = locate_images(names, sizes, folder, candidates, split)
    if len(located.missing) == len(names):
        places = ', '.join(str(place) for place in candidates)
        hint = suggest_file(names[0], (folder.relative(path) for path in folder.images))
        raise InputError(
            f"the images of '{coco.path}' (first {names[0]!r}) were not found; looked in {places}"
            f'{f"; {hint}" if hint else ""}'
        )
    return located


def _image_folders(root: Path, split: str, ann_file: Path) -> Iterator[Path]:
    """Yields the folders that pictures may be in, the likeliest first."""
    if ann_file.parent != root and split_of(ann_file.parent.name) == split:
        yield ann_file.parent
    bases = [root, *(root / name for name in _IMAGE_FOLDERS)]
    inside = [path for base in bases for path in _folders(base)]
    alike = [path for path in inside if f'_{ann_file.stem}'.endswith(f'_{path.name}')]
    for place in (*alike, *(path for path in inside if split_of(path.name) == split)):
        yield place
        yield place / 'images'
    for name in _IMAGE_FOLDERS:
        yield Path(os.path.normpath(root / name))
    yield ann_file.parent


def _folders(base: Path) -> list[Path]:
    if not base.is_dir():
        return []
    return sorted(path for path in base.iterdir() if path.is_dir() and not is_no_data(path.name))


def _found_split(coco: AnnotationColumns, located: LocatedImages, remarks: Remarks) -> FoundSplit:
    """Returns a split; completes a copy of its entries where that is needed."""
    names = [located.names[name] for name in coco.file_names]
    renamed = sum(map(ne, names, coco.file_names))
    sizes = {}
    for index in np.flatnonzero((coco.widths == 0) | (coco.heights == 0)).tolist():
        size = upright_size(located.folder / names[index])
        if size is None:
            raise InputError(
                f"'{coco.path}' gives no width and height of {names[index]!r}, and the picture "
                f'cannot be read in {located.folder}; add the size, or repair the picture'
            )
        sizes[index] = dict(zip(SIZE_KEYS, size, strict=True))
    kept = coco.categories
    heading = _heading(kept, _used_ids(coco))
    if heading is not None and any(c['name'] == heading['name'] for c in kept if c != heading):
        # Names are how classes are found, and the heading has that of a class.
        kept = [category for category in kept if category != heading]
    if coco.derived['bbox']:
        remarks.notes.append(
            f'{coco.derived["bbox"]} boxes of {coco.path} are those around its segmentations'
        )
    if renamed:
        first = next(old for old, new in located.names.items() if old != new)
        remarks.notes.append(
            f'{renamed} of {len(names)} file names of {coco.path} were read as what exists, '
            f'such as {first!r} as {located.names[first]!r} in {located.folder}'
        )
    if sizes:
        remarks.notes.append(
            f'{len(sizes)} of {len(names)} sizes that {coco.path} lacks are those of the images'
        )
    origin = f'annotations {coco.path}'
    if not renamed and not sizes and kept is coco.categories:
        return FoundSplit(located.folder, origin, coco=coco)
    entries = read_entries(coco.path)
    for index, (image, name) in enumerate(zip(entries['images'], names, strict=True)):
        image.update(sizes.get(index, ()), file_name=name)
    content = dict(images=entries['images'], categories=kept)
    if coco.annotated:
        content['annotations'] = entries['annotations']
    return FoundSplit(
        located.folder, origin, lambda: (content, Remarks()), fingerprint(coco.path, content)
    )


def _find_classes(cocos: dict[str, AnnotationColumns], remarks: Remarks) -> list[dict[str, Any]]:
    """Returns the categories of the first split, without the heading that Roboflow adds."""
    first = next(iter(cocos.values()))
    categories = first.categories
    if not categories:
        raise InputError(
            f"'{first.path}' lists no categories, so there is nothing to detect; list the classes"
        )
    heading = _heading(categories, set().union(*map(_used_ids, cocos.values())))
    if heading is None:
        return categories
    remarks.notes.append(
        f'category {heading["name"]!r} (id {heading["id"]}) is not a class: it has no boxes '
        'and is the supercategory of all others'
    )
    return categories[1:]


def _heading(categories: list[dict[str, Any]], used: set[Any]) -> dict[str, Any] | None:
    """Returns the first category if it is the name of a project, not a class."""
    heading, *others = categories or [None]
    if (
        others
        and heading['id'] not in used
        and all(category.get('supercategory') == heading['name'] for category in others)
    ):
        return heading
    return None


def _used_ids(coco: AnnotationColumns) -> set[Any]:
    used = np.unique(coco.category_index)
    return {coco.categories[index]['id'] for index in used[used >= 0].tolist()}
