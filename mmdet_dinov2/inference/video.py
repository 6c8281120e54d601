"""Frames of video files and cameras."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from ..data.image_header import MAX_PIXELS
from ..errors import InputError
from ..wording import printable

_USUAL_RATE = 25.0
# What OpenCV passes on to FFmpeg, and the formats of FFmpeg that hold videos.
_OPTIONS = 'OPENCV_FFMPEG_CAPTURE_OPTIONS'
_FORMATS = 'mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,asf,wmv,ogg,gif'


class Video:
    """The frames of a video file or of a camera.

    Args:
        source: The file, or the index of a camera, from 0.
        stride: 1 takes every frame, n every n-th one, from the first.

    Attributes:
        fps: Frames per second that are taken.
        unreadable: Numbers of the frames, of those to be taken, that could not be read so far. The
            end of a file that is shorter than its header says counts too.

    Raises:
        InputError: If the source cannot be opened.
    """

    def __init__(self, source: Path | int, stride: int = 1) -> None:
        self._source = source
        self._stride = stride
        self.unreadable: list[int] = []
        if isinstance(source, int):
            self._capture = cv2.VideoCapture(source)
        else:
            with _utf_8_name(source) as name, _videos_only():
                self._capture = cv2.VideoCapture(name)
        if not self._capture.isOpened():
            raise InputError(
                f'camera {source} cannot be opened; cameras count from 0'
                if isinstance(source, int)
                else f'{source} is not a valid video'
            )
        sides = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        width, height = (int(self._capture.get(side)) for side in sides)
        if width * height > MAX_PIXELS:
            self._capture.release()
            raise InputError(
                f'{source} has frames of {width} x {height} pixels, more than {MAX_PIXELS}'
            )
        self.fps = (self._capture.get(cv2.CAP_PROP_FPS) or _USUAL_RATE) / stride
        # As the header says; a camera and some files do not know.
        self._length = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    @property
    def num_frames(self) -> int | None:
        """Number of frames to be taken, by the header of the file; None if it is not known."""
        return -(-self._length // self._stride) or None

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields numbers, from 0, and pixels (H x W x 3, uint8, BGR) of the frames.

        A frame that cannot be decoded is left out. The frames can be had once.
        """
        number = 0
        try:
            # A failure is a broken frame or the end, which the header tells apart.
            while (found := self._capture.grab()) or number < self._length:
                if number % self._stride == 0:
                    found, frame = self._capture.retrieve() if found else (False, None)
                    if found:
                        yield number, frame
                    else:
                        self.unreadable.append(number)
                number += 1
        finally:
            self._capture.release()


@contextmanager
def _videos_only() -> Iterator[None]:
    """Lets OpenCV open videos only: FFmpeg also knows playlists, which name other files."""
    before = os.environ.get(_OPTIONS)
    os.environ[_OPTIONS] = f'format_whitelist;{_FORMATS}'
    try:
        yield
    finally:
        if before is None:
            del os.environ[_OPTIONS]
        else:
            os.environ[_OPTIONS] = before


@contextmanager
def _utf_8_name(path: Path) -> Iterator[str]:
    """Yields a name of the file in UTF-8; OpenCV crashes on others."""
    if printable(str(path)) == str(path):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = os.path.join(folder, f'video{printable(path.suffix)}')
        os.symlink(path.absolute(), link)
        yield link
