"""Decodes JPEG and PNG files from top to bottom, with the optional package pyvips."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError

# libvips' names of decoders, and of pixels of 8 bits that are what they look like.
_DECODERS = ('jpegload', 'pngload')
_BANDS = {'b-w': 1, 'srgb': 3}
# Files that hold the image several times over, coarse to fine, are decoded as a whole.
_PROGRESSIVE = ('jpeg-multiscan', 'interlaced')
_UPRIGHT = 1
_JPEG_BEGIN, _JPEG_END = b'\xff\xd8', b'\xff\xd9'
# Smaller images may be in memory as a whole: 24 MiB.
_MIN_PIXELS = 2**23
# Rows that are decoded at once.
_ROWS = 16


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
        image = _open(path)
        self.shape = (image.height, image.width)
        self._bands = image.bands
        self._rewind()

    def __getstate__(self) -> dict[str, Any]:
        # Processes open the file themselves.
        return {**vars(self), '_region': None, '_top': 0, '_rows': self._rows[:0]}

    def read(self, x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
        """Returns the pixels between two corners, H x W x 3, uint8, BGR.

        Raises:
            InputError: If the file is damaged.
        """
        if y1 < self._top:
            self._rewind()
        bottom = self._top + len(self._rows)
        kept = self._rows[y1 - self._top :].copy()
        self._rows = kept  # the others are forgotten before the next ones are decoded
        rows = np.empty((max(y2, bottom) - y1, *kept.shape[1:]), np.uint8)
        rows[: len(kept)] = kept
        for top in range(bottom, y2, _ROWS):
            decoded = self._decoded(top, min(top + _ROWS, y2))[max(0, y1 - top) :]
            begin = max(top, y1) - y1
            rows[begin : begin + len(decoded)] = decoded
        self._top, self._rows = y1, rows
        part = rows[: y2 - y1, x1:x2, ::-1]
        return np.repeat(part, 3, 2) if self._bands == 1 else part

    def _decoded(self, top: int, bottom: int) -> np.ndarray:
        """Decodes the next rows."""
        import pyvips

        width = self.shape[1]
        try:
            if self._region is None:
                self._region = pyvips.Region.new(_open(self._path))
            data = self._region.fetch(0, top, width, bottom - top)
        except pyvips.Error as error:
            reason = str(error).strip().splitlines()[-1]
            raise InputError(f'{self._path} cannot be decoded ({reason})') from error
        return np.frombuffer(data, np.uint8).reshape(bottom - top, width, self._bands)

    def _rewind(self) -> None:
        self._region: Any = None
        self._top = 0
        self._rows = np.empty((0, self.shape[1], self._bands), np.uint8)


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
        image = _open(path)
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


def _open(path: Path) -> Any:
    import pyvips

    # Its cache would hold the buffers of files that are read, and their place in the file.
    pyvips.cache_set_max(0)
    return pyvips.Image.new_from_file(str(path), access='sequential', fail_on='truncated')
