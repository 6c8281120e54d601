"""Decodes JPEG and PNG files from top to bottom, with the optional package pyvips."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError

# libvips' names of decoders, and of pixels of 8 bits that are what they look like.
_DECODERS = ('jpegload_source', 'pngload_source')
_BANDS = {'b-w': 1, 'srgb': 3}
# Files that hold the image several times over, coarse to fine, are decoded as a whole.
_PROGRESSIVE = ('jpeg-multiscan', 'interlaced')
_UPRIGHT = 1
_JPEG_BEGIN, _JPEG_END = b'\xff\xd8', b'\xff\xd9'
# Smaller images may be in memory as a whole: 24 MiB.
_MIN_PIXELS = 2**23
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
        self._file = path.open('rb')
        self._source = pyvips.SourceCustom()
        self._source.on_read(self._file.read)
        self._source.on_seek(self._file.seek)
        self.image: Any = pyvips.Image.new_from_source(
            self._source, '', access='sequential', fail_on='truncated'
        )
        self._region = pyvips.Region.new(self.image)

    def __del__(self) -> None:
        self._file.close()

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Returns rows below those of the last call, H x W x bands, uint8."""
        width, bands = self.image.width, self.image.bands
        data = self._region.fetch(0, top, width, bottom - top)
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
        image = _Decoder(path).image
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
            InputError: If the file is damaged.
        """
        if y1 < self._top:
            self._rewind()
        bottom = self._top + len(self._rows)
        kept = self._rows[y1 - self._top :]
        num_rows = max(y2, bottom) - y1
        buffer = self._buffer
        if len(buffer) < num_rows:
            buffer = np.empty((num_rows, *kept.shape[1:]), np.uint8)
        buffer[: len(kept)] = kept
        for top in range(bottom, y2, _ROWS):
            decoded = self._decoded(top, min(top + _ROWS, y2))[max(0, y1 - top) :]
            begin = max(top, y1) - y1
            buffer[begin : begin + len(decoded)] = decoded
        self._top, self._buffer, self._rows = y1, buffer, buffer[:num_rows]
        # A copy, as the buffer is used again.
        part = buffer[: y2 - y1, x1:x2, ::-1]
        return np.repeat(part, 3, 2) if self._bands == 1 else part.copy()

    def _decoded(self, top: int, bottom: int) -> np.ndarray:
        """Decodes the next rows."""
        import pyvips

        try:
            if self._decoder is None:
                self._decoder = _Decoder(self._path)
            return self._decoder.rows(top, bottom)
        except pyvips.Error as error:
            self._rewind()
            reason = str(error).strip().splitlines()[-1]
            raise InputError(f'{self._path} cannot be decoded ({reason})') from error

    def _rewind(self) -> None:
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
        image = _Decoder(path).image
        fields = {name: image.get(name) for name in image.get_fields()}
        fits = (
            whole
            and fields['vips-loader'] in _DECODERS
            and image.format == 'uchar'
            and _BANDS.get(image.interpretation) == image.bands
            and not any(fields.get(name) for name in _PROGRESSIVE)
            and fields.get('orientation', _UPRIGHT) == _UPRIGHT
            and image.width * image.height >= _MIN_PIXELS
        )
        return RowFile(path) if fits else None
    except Exception:  # such as a broken header
        return None  # the whole file is read, which says what is wrong with it
