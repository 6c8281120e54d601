"""Images and videos that a user names on the command line."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmcv.video import VideoReader

from ..data.yolo import IMAGE_SUFFIXES
from ..drawing.picture_names import PictureNames
from ..errors import InputError

VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')


@dataclass(frozen=True)
class InputFile:
    """A file to predict on.

    Attributes:
        path: Where it is.
        name: Name of its results: the path within the folder that was given, unique among the
            files.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether the suffix is that of a video."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


class Video:
    """The frames of a video file.

    Args:
        path: The file.

    Attributes:
        fps: Frames per second.

    Raises:
        InputError: If no frame can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = VideoReader(str(path), cache_capacity=1)
        self.fps = self._reader.fps or 25.0
        if not len(self):
            raise InputError(f'{path} is not a valid video')

    def __len__(self) -> int:
        return len(self._reader)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields frames of H x W x 3, uint8, BGR."""
        for _ in range(len(self)):
            frame = self._reader.read()
            if frame is None:  # the video is shorter than its header says
                return
            yield frame


def expand_inputs(arguments: Sequence[str]) -> list[InputFile]:
    """Lists the images and videos that files, folders and patterns name.

    Folders are searched with their subfolders, for the usual suffixes. A file that is named itself
    may have any suffix.

    Raises:
        FileNotFoundError: If an argument names nothing.
        InputError: If a folder has no images or videos.
    """
    files: dict[Path, str] = {}
    for argument in arguments:
        for path, name in _expand(argument):
            files.setdefault(path, name)
    names = PictureNames()
    return [InputFile(path, names.name_of(path, name)) for path, name in files.items()]


def _expand(argument: str) -> Iterator[tuple[Path, str]]:
    path = Path(argument)
    if path.is_dir():
        found = sorted(file for file in path.rglob('*') if _is_input(file))
        if not found:
            suffixes = ' '.join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
            raise InputError(
                f'folder {path} has no images or videos; looked for files that end in {suffixes}'
            )
        yield from ((file, file.relative_to(path).as_posix()) for file in found)
    elif path.is_file():
        yield path, path.name
    else:
        found = [Path(name) for name in sorted(glob.glob(argument, recursive=True))]
        found = [file for file in found if file.is_file()]
        if not found:
            raise FileNotFoundError(
                f'{argument} is not a file, a folder or a pattern of files; check the path'
            )
        yield from ((file, file.name) for file in found)


def _is_input(path: Path) -> bool:
    return path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) and path.is_file()
