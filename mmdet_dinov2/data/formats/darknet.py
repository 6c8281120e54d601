"""Finds datasets with label files of YOLO that no data.yaml describes.

Darknet has an ``obj.data`` with the lists of pictures and the names, as CVAT exports it. Others
leave a file of names: ``classes.txt`` (labelImg, Label Studio), ``_darknet.labels`` (Roboflow).
"""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError, MissingFileError
from ..data_folder import DataFolder, is_image_name
from ..splits import split_of, split_of_folders
from ..text_file import read_text
from .found import FoundData, Remarks
from .image_lists import find_place, list_images
from .yolo import name_lines, number_names
from .yolo_data import NAME_FILES, YoloData, absolute, find_label_file, found_data

_SPLIT_KEYS = {'train': ('train',), 'val': ('valid', 'val'), 'test': ('test',)}


def find(folder: DataFolder) -> FoundData | None:
    """Finds a dataset of darknet, or one with a file of names, in a folder.

    Raises:
        InputError: If it cannot be used.
    """
    for path in sorted(folder.root.glob('*.data')):
        keys = _read_keys(path)
        if 'names' in keys and any(k in keys for ks in _SPLIT_KEYS.values() for k in ks):
            return found_data(_read_data_file(path, keys))
    path = _find_names(folder)
    if path is None:
        return None
    remarks = Remarks()
    images = _listed_images(folder, remarks) or _images_of_folders(folder)
    if not any(find_label_file(image) for files in images.values() for image in files):
        return None
    return found_data(YoloData(path, number_names(path, name_lines(path)), images, None, remarks))


def _listed_images(folder: DataFolder, remarks: Remarks) -> dict[str, list[Path]]:
    """Returns the pictures of the lists in a folder, such as train.txt, if there are any."""
    lists: dict[str, Path] = {}
    for path in sorted(folder.root.glob('*.txt'), key=lambda path: (len(path.name), path.name)):
        split = split_of(path.stem)
        if split is not None and is_image_name(read_text(path).strip().split('\n', 1)[0].strip()):
            lists.setdefault(split, path)
    return {
        split: list_images(path, split, path.name, folder.root, remarks, drop_folders=True)
        for split, path in lists.items()
    }


def _images_of_folders(folder: DataFolder) -> dict[str, list[Path]]:
    images: dict[str, list[Path]] = {}
    for image in folder.images:
        split = split_of_folders(folder.parts(image)) or 'train'
        images.setdefault(split, []).append(image)
    return {split: absolute(files) for split, files in images.items()}


def _read_keys(path: Path) -> dict[str, str]:
    try:
        lines = read_text(path).splitlines()
    except InputError:
        return {}
    pairs = (line.split('=', 1) for line in lines if '=' in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _read_data_file(path: Path, keys: dict[str, str]) -> YoloData:
    root, remarks = path.parent, Remarks()
    names = find_place(keys['names'], [root], drop_folders=True)
    if names is None:
        raise MissingFileError(
            f"'names' in {path} is {keys['names']!r}, which does not exist in {root}; correct it"
        )
    images = {}
    for split, known in _SPLIT_KEYS.items():
        key = next((key for key in known if keys.get(key)), None)
        if key is None:
            continue
        try:
            images[split] = list_images(path, key, keys[key], root, remarks, drop_folders=True)
        except MissingFileError as error:
            if split == 'train':
                raise
            remarks.warnings.append(f'{error}, so there is no {split} split')
    return YoloData(path, number_names(path, name_lines(names)), images, remarks=remarks)


def _find_names(folder: DataFolder) -> Path | None:
    """Returns the file of class names: the one nearest to the root."""
    found = [
        path
        for path in folder.files
        if path.name.lower() in NAME_FILES
        or path.suffix == '.names'
        or path.name == '_darknet.labels'
    ]
    return min(found, key=lambda path: (len(path.parts), str(path)), default=None)
