"""The files of a user's dataset folder: links followed, hidden and system folders left out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from .prediction_output import output_names

# Pictures by the ending of their name, in lower case.
IMAGE_SUFFIXES = (
    '.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.bmp', '.webp', '.tif', '.tiff', '.gif', '.jp2',
    '.pgm', '.ppm',
)  # fmt: skip
# Folders that systems make beside the data: archives of macOS, network drives, recycle bins.
_SYSTEM_FOLDERS = {
    '__macosx', '@eadir', '@recycle', '@tmp', '#recycle', '#snapshot', '$recycle.bin',
    'system volume information', 'lost+found', '__pycache__',
}  # fmt: skip
# Of the folder that converted annotations are written to, in a work folder.
CACHE, CACHE_LOCK = 'data', '.lock'


def is_image_name(path: str | os.PathLike) -> bool:
    """Returns whether a file has the ending of a picture."""
    return os.fspath(path).lower().endswith(IMAGE_SUFFIXES)


def is_no_data(name: str) -> bool:
    """Returns whether a file or folder is hidden or made by a system, by its name."""
    return name.startswith('.') or name.lower() in _SYSTEM_FOLDERS


class DataFolder:
    """The files below a folder, listed once.

    Links to files and folders are followed. A link to a folder that holds the link itself is a
    loop and is left out. Names that begin with a dot, folders that systems make, work folders of
    trainings and what predictions wrote are no data.

    Args:
        root: The folder.
        skipped: A folder inside that is left out.
        outputs: Whether what predictions wrote is listed too.
    """

    def __init__(self, root: Path, skipped: Path | None = None, outputs: bool = False) -> None:
        self.root = root
        self._outputs = outputs
        self._skipped = None if skipped is None else os.fspath(skipped)
        self.dead_links: list[Path] = []

    @cached_property
    def files(self) -> list[Path]:
        """All files, sorted within each folder, a folder after its files."""
        return [Path(path) for path in self._walk(os.fspath(self.root), ())]

    @cached_property
    def paths(self) -> frozenset[str]:
        """All files as text."""
        return frozenset(map(os.fspath, self.files))

    @cached_property
    def images(self) -> list[Path]:
        """All files with the ending of a picture."""
        return [path for path in self.files if is_image_name(path)]

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """Returns the files with one of some endings, given in lower case."""
        return [path for path in self.files if path.suffix.lower() in suffixes]

    def relative(self, path: Path) -> str:
        """Returns a path as messages name it: relative to the folder where it is inside."""
        inside = path.is_relative_to(self.root)
        return path.relative_to(self.root).as_posix() if inside else str(path)

    def parts(self, path: Path) -> tuple[str, ...]:
        """Returns the names of the folders between the root and a file."""
        return path.relative_to(self.root).parts[:-1] if path.is_relative_to(self.root) else ()

    def _walk(self, folder: str, above: tuple[str, ...]) -> Iterator[str]:
        real = os.path.realpath(folder)
        above = (*above, real)
        folders = []
        left_out = frozenset() if self._outputs else output_names(folder)
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if is_no_data(entry.name) or entry.name in left_out:
                    continue
                if os.path.isdir(entry.path):
                    folders.append(entry)
                    continue
                if not os.path.exists(entry.path):
                    self.dead_links.append(Path(entry.path))
                elif not os.path.isfile(entry.path):
                    continue  # a pipe or a device, which may have no end
                yield entry.path
        for entry in folders:
            if entry.path == self._skipped or _is_work_folder(entry.path):
                continue
            if entry.is_symlink() and _holds(entry.path, above):
                continue
            yield from self._walk(entry.path, above)


def _holds(link: str, folders: tuple[str, ...]) -> bool:
    """Returns whether a link leads to one of some folders, or to one that holds any of them."""
    target = os.path.realpath(link).rstrip(os.sep) + os.sep
    return any((folder + os.sep).startswith(target) for folder in folders)


def _is_work_folder(path: str) -> bool:
    """Returns whether a training has written converted annotations into a folder."""
    return os.path.basename(path) == 'work_dirs' or os.path.exists(
        os.path.join(path, CACHE, CACHE_LOCK)
    )
