"""Finds YOLO datasets that a data.yaml describes.

The layout is that of Ultralytics (docs.ultralytics.com/datasets/detect). What a data.yaml says to
download or run is ignored.
"""

from __future__ import annotations

import re
import reprlib
from pathlib import Path
from typing import Any

import yaml

from ...errors import InputError
from ...wording import name_some
from ..data_folder import DataFolder, is_no_data
from ..text_file import read_text
from .found import FoundData, Remarks
from .image_lists import list_images
from .yolo_data import YoloData, found_data

_SPLIT_KEYS = {
    'train': ('train',),
    'val': ('val', 'valid', 'validation', 'dev'),
    'test': ('test',),
}
# A number beyond it is a slip, which would take all the memory.
_MAX_CLASSES = 100_000
_NOTHING = ('', '~', 'null', 'Null', 'NULL', 'None')


class _TextLoader(yaml.SafeLoader):
    """Loads every plain value as the text that it is, so that a class can be called ``no``."""

    yaml_implicit_resolvers: dict = {}


def find(folder: DataFolder) -> FoundData | None:
    """Finds the dataset of a data.yaml in a folder.

    Raises:
        InputError: If there are several, or the dataset cannot be used.
    """
    path = find_data_yaml(folder.root)
    return None if path is None else found_data(read_data_yaml(path))


def find_data_yaml(path: Path) -> Path | None:
    """Finds the data.yaml of a YOLO dataset: the file itself, or one in a folder.

    Raises:
        InputError: If the folder has several.
    """
    files = [path] if path.is_file() else sorted(p for p in path.glob('*') if p.is_file())
    found = [
        file
        for file in files
        if file.suffix.lower() in ('.yaml', '.yml')
        if not is_no_data(file.name) and _is_data_yaml(file)
    ]
    named = [file for file in found if file.stem == 'data']
    if len(found) > 1 and len(named) != 1:
        names = ', '.join(file.name for file in found)
        raise InputError(f'{path} has several YOLO data files ({names}); give the path of one')
    return next(iter(named or found), None)


def read_data_yaml(path: Path) -> YoloData:
    """Reads a data.yaml and lists the images of its splits.

    Raises:
        InputError: If it is not valid, or its training images are not found.
    """
    content = _load_yaml(path)
    root = path.parent
    if content.get('path') not in (None, *_NOTHING):
        named = root / str(content['path']).replace('\\', '/')
        root = named if named.is_dir() else root  # else a path on a different computer
    images, remarks, problems = {}, Remarks(), []
    for split, keys in _SPLIT_KEYS.items():
        key = next((key for key in keys if content.get(key) not in (None, [], *_NOTHING)), None)
        if key is None:
            continue
        entries = content[key] if isinstance(content[key], list) else [content[key]]
        listed = []
        for entry in entries:
            if not isinstance(entry, str):
                raise InputError(
                    f'{key!r} in {path} must be a path or a list of paths, but has {_short(entry)}'
                )
            try:
                listed += list_images(path, key, entry, root, remarks)
            except FileNotFoundError as error:
                problems.append((split, str(error)))
        if listed:
            images[split] = list(dict.fromkeys(listed))
    for split, problem in problems:
        if split == 'train' or not images:
            raise InputError(problem)
        remarks.warnings.append(
            f'{problem}; correct it, or remove the key'
            if split in images
            else f'{problem}, so there is no {split} split; correct it, or remove the key'
        )
    names = _read_names(path, content)
    return YoloData(path, names, images, _read_key_points(path, content), remarks)


def number_names(path: Path, names: Any) -> dict[int, str]:
    """Returns class names by number, from a list, a mapping or a text.

    Raises:
        InputError: If they are not class names, each with a whole number of its own.
    """
    if isinstance(names, list) and all(isinstance(name, dict) for name in names):
        names = {key: value for pair in names for key, value in pair.items()}  # '- 0: red'
    if isinstance(names, dict):
        numbers = {_whole(key): name for key, name in names.items()}
        if None in numbers or len(numbers) < len(names):
            numbers = {_whole(value): key for key, value in names.items()}  # 'red: 0'
        if None in numbers or len(numbers) < len(names):
            raise InputError(
                f"the keys of 'names' in {path} must be whole numbers, one for each class, but are "
                f'{_short(list(names))}; correct them'
            )
    elif isinstance(names, list):
        numbers = dict(enumerate(names))
    else:
        numbers = {}
    if not numbers or not all(isinstance(name, str) and name for name in numbers.values()):
        raise InputError(f"'names' in {path} must list the class names, but is {_short(names)}")
    repeated = sorted({n for n in numbers.values() if list(numbers.values()).count(n) > 1})
    if repeated:
        raise InputError(
            f"'names' in {path} lists {name_some(repeated)} more than once; give every class a "
            'name of its own'
        )
    return numbers


def _short(value: Any) -> str:
    """Returns the beginning of what a value is, which may repeat a part without end."""
    return reprlib.repr(value)


def _whole(text: Any) -> int | None:
    try:
        return int(text)
    except (TypeError, ValueError):
        return None


def _is_data_yaml(path: Path) -> bool:
    try:
        content = yaml.load(read_text(path), _TextLoader)
    except Exception:  # tags of YAML may fail in any way
        return path.stem == 'data'  # so that read_data_yaml reports what is wrong with it
    # A file with 'nc' and 'backbone' describes a model.
    return isinstance(content, dict) and (
        'names' in content or ('nc' in content and 'backbone' not in content)
    )


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(read_text(path), _TextLoader)
    except Exception as error:  # tags of YAML may fail in any way
        reason = ' '.join(str(error).split())
        raise InputError(f'{path} is not valid YAML ({reason}); correct it') from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path} has no keys, but a YOLO data file needs 'train', 'val' and 'names'; add them"
        )
    return content


def _read_names(path: Path, content: dict[str, Any]) -> dict[int, str]:
    count = _whole(content.get('nc'))
    names = content.get('names')
    if names in (None, *_NOTHING) and count is not None and 'names' not in content:
        if count > _MAX_CLASSES:
            raise InputError(f'{path} has nc={count}, more than {_MAX_CLASSES} classes; correct it')
        names = [f'class_{index}' for index in range(count)]
    if isinstance(names, str) and names not in _NOTHING:
        names = _names_in_text(path, names, count)
    numbers = number_names(path, names)
    if count is not None and count not in (len(numbers), max(numbers) + 1):
        raise InputError(f"{path} has nc={count}, but {len(numbers)} 'names'; correct one of them")
    return numbers


def name_lines(path: Path) -> list[str]:
    """Reads the names of classes, each in a line whose number is that of the class.

    Raises:
        InputError: If it is not a text file, or has a blank line between names.
    """
    if not path.is_file():
        raise InputError(f'{path}, which should have the names of the classes, is not a file')
    # Not splitlines, for which a name may have more kinds of line breaks in it.
    lines = [line.strip() for line in re.split('\r?\n', read_text(path))]
    while lines and not lines[-1]:
        lines.pop()
    if '' in lines:
        raise InputError(
            f'{path} has no name in line {lines.index("") + 1}, and the lines of a file of names '
            'count the classes; name this one, or remove the line if labels do not count it'
        )
    return lines


def _names_in_text(path: Path, text: str, count: int | None) -> list[str]:
    """Returns the names that a text has: those of a file that it names, or between commas."""
    file = path.parent / text
    if len(text) < 200 and file.suffix in ('.names', '.txt') and file.is_file():
        return name_lines(file)
    if count == 1:
        return [text]
    parts = text.replace('\n', ',').split(',')
    return [part.strip() for part in parts if part.strip()]


def _read_key_points(path: Path, content: dict[str, Any]) -> tuple[int, int] | None:
    shape = content.get('kpt_shape')
    if shape in (None, *_NOTHING):
        return None
    numbers = [_whole(value) for value in shape] if isinstance(shape, list) else []
    if len(numbers) != 2 or None in numbers or numbers[0] < 1 or numbers[1] not in (2, 3):
        raise InputError(
            f"'kpt_shape' in {path} must be the number of key points and 2 or 3 values for each, "
            f'such as [17, 3], but is {_short(shape)}; correct it'
        )
    return numbers[0], numbers[1]
