"""Reads parts of TIFF files, tile by tile or strip by strip, with the optional package tifffile."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np

from .loading import BadImageError

# TIFF's names for pixels that are what they look like: grey from black to white, and RGB.
_GREY, _RGB = 1, 2
# With the number of values of a pixel; the fourth is how opaque it is.
_SAMPLES = ((_GREY, 1), (_RGB, 3), (_RGB, 4))
# The other values of a pixel are multiplied by the fourth.
_PREMULTIPLIED = 1
_CONTIGUOUS = 1
_UPRIGHT = 1
_ORIENTATION = 'Orientation'
# A part of the file that is decoded at once; a file of one large strip is read as a whole.
_MAX_PIECE = 2**24


class TiffFile:
    """A TIFF file of 8 bits of which parts are read.

    Args:
        path: The file.

    Attributes:
        shape: Height and width in pixels.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._page: Any = None
        page = self._open()
        self.shape = (int(page.imagelength), int(page.imagewidth))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), '_page': None}  # processes open the file themselves

    def read(self, x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
        """Returns the pixels between two corners, H x W x 3, uint8, BGR.

        Raises:
            BadImageError: If the file is damaged.
        """
        page = self._open()
        height, width = self.shape
        rows = int(page.tilelength if page.is_tiled else page.rowsperstrip)
        columns = int(page.tilewidth if page.is_tiled else width)
        across = -(-width // columns)
        pixels = np.empty((y2 - y1, x2 - x1, 3), dtype=np.uint8)
        for row in range(y1 // rows, -(-y2 // rows)):
            for column in range(x1 // columns, -(-x2 // columns)):
                piece = self._piece(page, row * across + column)
                if piece is None:
                    piece = np.zeros((rows, columns, 1), dtype=np.uint8)
                top, left = max(y1, row * rows), max(x1, column * columns)
                bottom = min(y2, row * rows + rows, height)
                right = min(x2, column * columns + columns, width)
                part = piece[
                    top - row * rows : bottom - row * rows,
                    left - column * columns : right - column * columns,
                ]
                pixels[top - y1 : bottom - y1, left - x1 : right - x1] = part
        return pixels

    def _piece(self, page: Any, index: int) -> np.ndarray | None:
        """Returns the pixels of a tile or strip, (H, W, 3) or (H, W, 1); None if it is left out."""
        try:
            handle = page.parent.filehandle
            handle.seek(page.dataoffsets[index])
            data = handle.read(page.databytecounts[index])
            decoded = page.decode(data, index)[0]
        except Exception as error:  # each codec has its own errors
            raise BadImageError(str(self._path), f'it cannot be decoded ({error})') from error
        if decoded is None:
            return None
        return decoded[0, ..., :3][..., ::-1] if decoded.shape[-1] > 1 else decoded[0]

    def _open(self) -> Any:
        # A process that was forked has the place in the file in common with its parent.
        if self._page is None or self._process != os.getpid():
            import tifffile

            self._process = os.getpid()
            self._page = tifffile.TiffFile(self._path).pages.first
        return self._page


def open_tiff(path: Path) -> TiffFile | None:
    """Opens a TIFF file if parts of it can be read without the whole.

    Returns:
        The file; None if the package tifffile is not installed, or if the file has more than 8
        bits, colors other than grey and RGB, is turned, stored plane by plane, compressed in a way
        that tifffile does not decode by itself, or in one large piece.
    """
    if importlib.util.find_spec('tifffile') is None:
        return None
    try:
        file = TiffFile(path)
        page = file._open()
        piece = (
            page.tilelength * page.tilewidth
            if page.is_tiled
            else (page.rowsperstrip * page.imagewidth)
        )
        fits = (
            page.dtype == np.uint8
            and (page.photometric, page.samplesperpixel) in _SAMPLES
            and _PREMULTIPLIED not in page.extrasamples
            and page.planarconfig == _CONTIGUOUS
            and getattr(page.tags.get(_ORIENTATION), 'value', _UPRIGHT) == _UPRIGHT
            and page.imagedepth == 1
            and piece <= _MAX_PIECE
        )
        if fits:
            file.read(0, 0, 1, 1)
        return file if fits else None
    except Exception:  # parsers of broken headers raise anything
        return None  # the whole file is read, which says what is wrong with it
