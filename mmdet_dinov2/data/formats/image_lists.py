"""The pictures that an entry of a data file names: a folder, a list in a text file, a picture."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from ...errors import InputError, MissingFileError
from ..data_folder import DataFolder
from ..text_file import read_text
from .found import Remarks, example
from .yolo_data import absolute

_DRIVE = re.compile('[A-Za-z]:/')


def list_images(
    data_file: Path,
    key: str,
    entry: str,
    root: Path,
    remarks: Remarks,
    drop_folders: bool = False,
) -> list[Path]:
    """Lists the pictures of an entry.

    Backslashes are separators. Of an absolute path on a different computer, the end that exists
    below the root counts.

    Args:
        data_file: The file that has the entry.
        key: Its key there.
        entry: A folder, a text file that lists pictures, or a picture.
        root: Folder that it is relative to.
        remarks: Receives what the user should know.
        drop_folders: Whether folders may be missing that relative paths begin with.

    Raises:
        MissingFileError: If the entry does not exist, or holds no pictures.
        InputError: If a list names pictures that do not exist.
    """
    place = find_place(entry, [root], drop_folders)
    path = entry.replace('\\', '/')
    if place is None and path.startswith('../'):  # exports of Roboflow have one '../' too many
        place = find_place(path[3:], [root], drop_folders)
    if place is None:
        tried = [root / path, *([root / path[3:]] if path.startswith('../') else [])]
        raise MissingFileError(
            f'{key!r} in {data_file} is {entry!r}, which does not exist; looked for '
            f'{" and ".join(map(str, tried))}'
        )
    if place.is_dir():
        folder = DataFolder(place)
        files = folder.images
        if folder.dead_links:
            remarks.warnings.append(
                f'{len(folder.dead_links)} links in {place} lead nowhere '
                f'{example(folder.dead_links)}; repair or remove them'
            )
    elif place.suffix.lower() == '.txt':
        files = _read_list(place, root, drop_folders)
    else:
        files = [place]
    if not files:
        raise MissingFileError(f'{key!r} in {data_file} is {entry!r}, but {place} has no images')
    return absolute(files)


def _read_list(list_file: Path, root: Path, drop_folders: bool) -> list[Path]:
    lines = [line.strip() for line in read_text(list_file).splitlines()]
    folders = [list_file.parent, root]
    files = []
    for line in filter(None, lines):
        found = find_place(line, folders, drop_folders)
        if found is None or not found.is_file():
            fitting = find_place(line, folders, drop_folders=True)
            hint = f'; {fitting} would fit: correct the list' if fitting else ''
            raise InputError(
                f'{list_file} lists {line!r}, which does not exist in {list_file.parent} or {root}'
                f'{hint}'
            )
        files.append(found)
    return files


def find_place(text: str, folders: list[Path], drop_folders: bool = False) -> Path | None:
    """Returns the place that a path means, as it stands or with the separators of Windows.

    Args:
        text: The path.
        folders: Folders that it may be relative to.
        drop_folders: Whether folders may be missing that a relative path begins with.
    """
    path = text.replace('\\', '/')
    for variant in dict.fromkeys((text, path, unquote(path))):
        for folder in folders:
            if _exists(folder / variant):
                return folder / variant
    if drop_folders or path.startswith('/') or _DRIVE.match(path):
        parts = PurePosixPath(_DRIVE.sub('', path).lstrip('/')).parts
        for start in range(1 if drop_folders else 0, len(parts)):
            for folder in folders:
                if _exists(folder.joinpath(*parts[start:])):
                    return folder.joinpath(*parts[start:])
    return None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # names that no file can have
        return False
