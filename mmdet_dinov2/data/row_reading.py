"""Decodes JPEG and PNG files from top to bottom, with the optional package pyvips."""

from __future__ import annotations

import importlib.util
import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .loading import BadImageError

# libvips' names of decoders, and of pixels of 8 bits that are what they look like.
_DECODERS = ('jpegload_source', 'pngload_source')
_BANDS = {'b-w': 1, 'srgb': 3}
# Files that hold the image several times over, coarse to fine, are decoded as a whole.
_PROGRESSIVE = ('jpeg-multiscan', 'interlaced')
_UPRIGHT = 1
_JPEG_BEGIN, _JPEG_END = b'\xff\xd8', b'\xff\xd9'
# Smaller images may be in memory as a whole: 24 MiB.
_MIN_PIXELS = 2**23
# Of JPEG. Rows of wider PNG files would fill the memory too.
_MAX_WIDTH = 2**16
# Rows that are decoded at once.
_ROWS = 16


class _Decoder:
    """Decodes a file once, from top to bottom.

    The file is read in pieces: libvips maps a file that it opens itself, and memory would come to
    hold all of it.

    Args:
        path: The file.

    Attributes:
        image: The image of pyvips. It reads from this object, which must be kept as long.
    """

    def __init__(self, path: Path) -> None:
        import pyvips

        # Its cache would hold the buffers of files that are read, and their place in the file.
        pyvips.cache_set_max(0)
        file = path.open('rb')
        weakref.finalize(self, file.close)
        problems: list[OSError] = []

        def read(size: int) -> bytes | None:
            try:
                return file.read(size)
            except OSError as problem:  # libvips would go on as if the file ended
                problems.append(problem)
                return None

        self._problems = problems
        self._source = pyvips.SourceCustom()
        self._source.on_read(read)
        self._source.on_seek(file.seek)
        self.image: Any = pyvips.Image.new_from_source(
            self._source, '', access='sequential', fail_on='truncated'
        )
        self._region = pyvips.Region.new(self.image)

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Returns rows below those of the last call, H x W x bands, uint8.

        Raises:
            OSError: If the file cannot be read.
            pyvips.Error: If it is damaged.
        """
        width, bands = self.image.width, self.image.bands
        try:
            data = self._region.fetch(0, top, width, bottom - top)
        finally:
            if self._problems:
                raise self._problems[0]
        return np.frombuffer(data, np.uint8).reshape(bottom - top, width, bands)


class RowFile:
    """A JPEG or PNG file of 8 bits whose rows are decoded one after the other.

    The rows of the last part stay in memory. For a part that begins above them, decoding starts
    again at the beginning of the file: read from top to bottom.

    Args:
        path: The file.

    Attributes:
        shape: Height and width in pixels.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        decoder = _Decoder(path)
        image = decoder.image
        self.shape = (image.height, image.width)
        self._bands = image.bands
        self._buffer = np.empty((0, image.width, image.bands), np.uint8)
        self._rewind()

    def __getstate__(self) -> dict[str, Any]:
        # Processes open the file themselves.
        empty = self._buffer[:0]
        return {**vars(self), '_decoder': None, '_top': 0, '_buffer': empty, '_rows': empty}

    def read(self, x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
        """Returns the pixels between two corners, H x W x 3, uint8, BGR.

        Raises:
            BadImageError: If the file is damaged, or cannot be read.
        """
        if y1 < self._top or self._process != os.getpid():
            self._rewind()
        if y2 > self._top + len(self._rows):
            # Python calls the handlers of signals in the main thread only. There, an interruption
            # while libvips reads from this object would be lost, and the file be called damaged.
            with ThreadPoolExecutor(1) as pool:
                pool.submit(self._decode, y1, y2).result()
        part = self._rows[y1 - self._top : y2 - self._top, x1:x2, ::-1]
        # A copy, as the buffer is used again.
        return np.repeat(part, 3, 2) if self._bands == 1 else part.copy()

    def _decode(self, y1: int, y2: int) -> None:
        """Puts the rows from y1 to y2 at the beginning of the buffer."""
        import pyvips

        decoder, bottom = self._decoder, self._top + len(self._rows)
        kept = self._rows[y1 - self._top :]
        self._rewind()  # whatever happens, half of the rows are not taken for all of them
        buffer = self._buffer
        if len(buffer) < y2 - y1:
            buffer = np.empty((y2 - y1, *kept.shape[1:]), np.uint8)
        buffer[: len(kept)] = kept
        try:
            decoder = decoder or _Decoder(self._path)
            for top in range(bottom, y2, _ROWS):
                decoded = decoder.rows(top, min(top + _ROWS, y2))[max(0, y1 - top) :]
                begin = max(top, y1) - y1
                buffer[begin : begin + len(decoded)] = decoded
        except (OSError, pyvips.Error) as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise BadImageError(str(self._path), f'it cannot be decoded ({reason})') from error
        self._decoder, self._top = decoder, y1
        self._buffer, self._rows = buffer, buffer[: y2 - y1]

    def _rewind(self) -> None:
        # A process that was forked has the place in the file in common with its parent.
        self._process = os.getpid()
        self._decoder: _Decoder | None = None
        self._top = 0
        self._rows = self._buffer[:0]


def open_rows(path: Path) -> RowFile | None:
    """Opens a JPEG or PNG file if it is large and its rows can be decoded one after the other.

    Returns:
        The file; None if the package pyvips is not installed, or if the file is small, progressive,
        turned, cut off, or has pixels other than grey or RGB of 8 bits.
    """
    if importlib.util.find_spec('pyvips') is None:
        return None
    try:
        with path.open('rb') as file:
            begin = file.read(2)
            file.seek(-2, 2)
            whole = begin != _JPEG_BEGIN or file.read() == _JPEG_END
        decoder = _Decoder(path)
        image = decoder.image
        fields = {name: image.get(name) for name in image.get_fields()}
        fits = (
            whole
            and fields['vips-loader'] in _DECODERS
            and image.format == 'uchar'
            and _BANDS.get(image.interpretation) == image.bands
            and not any(fields.get(name) for name in _PROGRESSIVE)
            and fields.get('orientation', _UPRIGHT) == _UPRIGHT
            and image.width * image.height >= _MIN_PIXELS
            and image.width <= _MAX_WIDTH
        )
        return RowFile(path) if fits else None
    except Exception:  # such as a broken header
        return None  # the whole file is read, which says what is wrong with it
