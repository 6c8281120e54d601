"""Images, videos and cameras that a user names on the command line."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.data_folder import IMAGE_SUFFIXES, DataFolder
from ..drawing.picture_names import PictureNames
from ..errors import InputError
from ..wording import printable
from .output_folder import EarlierOutputs
from .prediction_files import picture_name, video_name

VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')


@dataclass(frozen=True)
class InputFile:
    """A file or a camera to predict on.

    Attributes:
        path: Where it is; the index of a camera.
        name: Name of its results: the path within the folder that was given, unique among the
            files. Bytes of a name that is not in UTF-8 are written as ``\\xe9``.
        picture: Name of its picture or video with boxes, unique among the files.
        is_camera: Whether it is a camera.
    """

    path: Path
    name: str
    picture: str
    is_camera: bool = False

    @property
    def is_video(self) -> bool:
        """Whether it is a camera, or the suffix is that of a video."""
        return self.is_camera or self.path.suffix.lower() in VIDEO_SUFFIXES


def expand_inputs(
    arguments: Sequence[str], earlier: EarlierOutputs | None = None
) -> list[InputFile]:
    """Lists the images, videos and cameras that files, folders, patterns and indices name.

    Folders are searched with their subfolders, for the usual suffixes. Links are followed, hidden
    and system folders are left out. A file that is named itself may have any suffix. A number that
    is not the name of a file is a camera.

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
        unique = names.name_of(path, printable(name))
        is_camera = _is_camera(str(path))
        is_video = is_camera or path.suffix.lower() in VIDEO_SUFFIXES
        drawn = video_name(unique) if is_video else picture_name(unique)
        listed.append(InputFile(path, unique, pictures.name_of(path, drawn), is_camera))
    return listed


def _expand(argument: str) -> Iterator[tuple[Path, str]]:
    path = Path(argument)
    if _is_camera(argument):
        yield path, f'camera_{argument}'
    elif path.is_dir():
        found = [file for file in DataFolder(path, outputs=True).files if _is_input(file)]
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


def _is_camera(argument: str) -> bool:
    return argument.isdecimal() and not os.path.exists(argument)


def _is_input(path: Path) -> bool:
    return path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) and path.is_file()
