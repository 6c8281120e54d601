"""A sheet of small pictures with titles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..data.image_file import read_image
from ..drawing.fonts import TextFont, default_font
from ..errors import InputError

_SIDE = 180
_FONT = 13
_GAP = 6
_MAX_COLUMNS = 10
# JPEG has no more pixels on a side.
_MAX_HEIGHT = 65_000


def max_pictures() -> int:
    """Returns the largest number of pictures on a sheet."""
    return (_MAX_HEIGHT - 2 * _SIDE) // (_SIDE + 2 * _FONT + _GAP) * _MAX_COLUMNS


def draw_sheet(
    photos: Sequence[str], titles: Sequence[str], heading: str, path: str | Path, columns: int = 0
) -> None:
    """Draws photos, each with a title, in the order of reading.

    Args:
        photos: Files of the photos, at most ``max_pictures()``.
        titles: Title of each.
        heading: Text at the top.
        path: Picture file, JPEG; its folder exists.
        columns: Photos in a row; by default about as many as there are rows.
    """
    columns = columns or min(_MAX_COLUMNS, max(3, math.isqrt(max(1, len(photos) - 1)) + 1))
    cell = _SIDE + _GAP, _SIDE + 2 * _FONT + _GAP
    lines = _wrap(heading, columns * cell[0] - _GAP)
    top = _GAP + len(lines) * round(1.4 * _FONT) + _GAP
    size = columns * cell[0] + _GAP, top + -(-len(photos) // columns) * cell[1]
    sheet = Image.new('RGB', size, 'white')
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        middle = _GAP + round(1.4 * _FONT * (number + 0.5))
        TextFont(line, _FONT).draw(draw, _GAP, middle, 'black')
    for number, (photo, title) in enumerate(zip(photos, titles, strict=True)):
        left = _GAP + number % columns * cell[0]
        upper = top + number // columns * cell[1]
        picture = _small(photo)
        if picture is not None:
            place = left + (_SIDE - picture.width) // 2, upper + (_SIDE - picture.height) // 2
            sheet.paste(picture, place)
        TextFont(_shorten(title), _FONT).draw(draw, left, upper + _SIDE + _FONT, 'black')
    sheet.save(path, 'JPEG', quality=88)


def _small(photo: str) -> Image.Image | None:
    """Returns a small copy of a photo; ``None`` if it can no longer be read."""
    try:
        pixels = read_image(photo)
    except (InputError, OSError):
        return None
    picture = Image.fromarray(np.ascontiguousarray(pixels[..., ::-1]))
    picture.thumbnail((_SIDE, _SIDE))
    return picture


def _shorten(title: str) -> str:
    """Cuts out a part of a title that is wider than a picture, most of its beginning."""
    short, kept = title, len(title)
    while kept > 1 and TextFont(short, _FONT).length > _SIDE:
        kept -= 1
        short = f'{title[: kept // 3]}...{title[kept // 3 - kept :]}'
    return short


def _wrap(text: str, width: int) -> list[str]:
    """Breaks a text into lines of a width in pixels."""
    font, lines = default_font(_FONT), ['']
    for word in text.split(' '):
        longer = f'{lines[-1]} {word}'.strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
