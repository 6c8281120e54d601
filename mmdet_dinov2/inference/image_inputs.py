"""Images and videos that a user names on the command line."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmcv.video import VideoReader

from ..data.data_folder import IMAGE_SUFFIXES, DataFolder
from ..drawing.picture_names import PictureNames
from ..errors import InputError
from .output_folder import EarlierOutputs
from .prediction_files import picture_name, video_name

VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')


@dataclass(frozen=True)
class InputFile:
    """A file to predict on.

    Attributes:
        path: Where it is.
        name: Name of its results: the path within the folder that was given, unique among the
            files. Bytes of a name that is not in UTF-8 are written as ``\\xe9``.
        picture: Name of its picture or video with boxes, unique among the files.
    """

    path: Path
    name: str
    picture: str

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
        with _utf_8_name(path) as name:
            self._reader = VideoReader(name, cache_capacity=1)
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


def expand_inputs(
    arguments: Sequence[str], earlier: EarlierOutputs | None = None
) -> list[InputFile]:
    """Lists the images and videos that files, folders and patterns name.

    Folders are searched with their subfolders, for the usual suffixes. Links are followed, hidden
    and system folders are left out. A file that is named itself may have any suffix.

    Args:
        arguments: Names of files and folders, and patterns.
        earlier: The pictures that predictions drew, which are left out.

    Raises:
        FileNotFoundError: If an argument names nothing.
        InputError: If a folder has no images or videos, or if only pictures of earlier predictions
            are named.
    """
    earlier = EarlierOutputs() if earlier is None else earlier
    files: dict[Path, str] = {}
    for argument in arguments:
        for path, name in _expand(argument):
            if path not in files and not earlier.leaves_out(path):
                files[path] = name
    if not files:
        raise InputError(f'there is nothing to predict on: {earlier.note()}')
    names, pictures = PictureNames(), PictureNames()
    listed = []
    for path, name in files.items():
        unique = names.name_of(path, _printable(name))
        is_video = path.suffix.lower() in VIDEO_SUFFIXES
        drawn = video_name(unique) if is_video else picture_name(unique)
        listed.append(InputFile(path, unique, pictures.name_of(path, drawn)))
    return listed


def _expand(argument: str) -> Iterator[tuple[Path, str]]:
    path = Path(argument)
    if path.is_dir():
        found = [file for file in DataFolder(path).files if _is_input(file)]
        if not found:
            suffixes = ' '.join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
            raise InputError(
                f'folder {path} has no images or videos; looked for files that end in {suffixes}'
            )
        yield from ((file, file.relative_to(path).as_posix()) for file in sorted(found))
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


@contextmanager
def _utf_8_name(path: Path) -> Iterator[str]:
    """Yields a name of the file in UTF-8; OpenCV crashes on others."""
    if _printable(str(path)) == str(path):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = os.path.join(folder, f'video{_printable(path.suffix)}')
        os.symlink(path.absolute(), link)
        yield link


def _printable(name: str) -> str:
    return os.fsencode(name).decode('utf-8', 'backslashreplace')
