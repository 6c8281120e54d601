"""Fonts for names of classes in any alphabet."""

from __future__ import annotations

import functools
import logging
import os
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from matplotlib import font_manager, rc_context
from matplotlib.ft2font import FT2Font
from mmengine.logging import print_log
from PIL import ImageDraw, ImageFont

_DEFAULT = 'DejaVu Sans'
# A size that fonts with outlines have; those of coloured pictures only have their own.
_ANY_SIZE = 20
# Characters that change the ones beside them: joiners and variants of emoji.
_INVISIBLE = frozenset({0x200C, 0x200D, 0xFE0E, 0xFE0F})
# Unicode's categories of control characters and of separators of lines and paragraphs.
_CONTROL = ('Cc', 'Zl', 'Zp')
_missing_said: set[str] = set()


class TextFont:
    """Fonts of one size for a text: the usual one, and installed ones for what that one lacks.

    Args:
        text: The text. Characters that no font has are drawn as boxes.
        size: Height of the letters in pixels.
    """

    def __init__(self, text: str, size: int) -> None:
        self.size = size
        fonts = [(run, _load(path, size)) for run, path in _runs(text)]
        self._runs = [(run, font, font.getlength(run)) for run, font in fonts]

    @property
    def length(self) -> float:
        """Width of the text in pixels."""
        return sum(length for *_, length in self._runs)

    def draw(
        self, draw: ImageDraw.ImageDraw, left: float, middle: float, fill: str | tuple[int, ...]
    ) -> None:
        """Draws the text, from the left, at half its height."""
        for run, font, length in self._runs:
            draw.text((left, middle), run, fill=fill, font=font, anchor='lm')
            left += length


def default_font(size: int) -> ImageFont.FreeTypeFont:
    """Returns the usual font in a size in pixels."""
    return _load(_default_path(), size)


@contextmanager
def fonts_for(texts: Iterable[str]) -> Iterator[None]:
    """Lets figures that are made and saved inside show texts as they are, in any alphabet."""
    texts = list(texts)
    warn_of_missing(texts)
    families = [_DEFAULT]
    for path in {path for text in texts for _, path in _runs(text)} - {_default_path()}:
        font_manager.fontManager.addfont(path)
        families.append(font_manager.FontProperties(fname=path).get_name())
    # Dollars are no mathematics.
    with rc_context({'font.family': families, 'text.parse_math': False}):
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='Glyph .* missing from')
            yield


def warn_of_missing(texts: Iterable[str]) -> None:
    """Warns, once for each character, of those that no installed font has."""
    missing = {char for text in texts for char in text if _font_of(char) is None} - _missing_said
    if missing:
        _missing_said.update(missing)
        shown = ''.join(sorted(missing))
        print_log(
            f'no installed font has the characters {shown!r} of names, so pictures show boxes in '
            'their place; install a font that has them, such as fonts-noto-cjk on Debian '
            'and Ubuntu',
            logger='current',
            level=logging.WARNING,
        )


def _runs(text: str) -> list[tuple[str, str]]:
    """Divides a text into parts of one font each: pairs of the part and the file of the font."""
    runs: list[tuple[str, str]] = []
    for char in text:
        # The layout of a line fails on what ends it.
        char = ' ' if unicodedata.category(char) in _CONTROL else char
        path = _font_of(char) or _default_path()
        if runs and runs[-1][1] == path:
            runs[-1] = (runs[-1][0] + char, path)
        else:
            runs.append((char, path))
    return runs


@functools.cache
def _font_of(char: str) -> str | None:
    """Returns the file of a font that has a character; ``None`` if there is none."""
    code = ord(char)
    if code in _characters(_default_path()) or code in _INVISIBLE or char.isspace():
        return _default_path()
    return next((path for path in _installed() if code in _characters(path)), None)


@functools.cache
def _installed() -> tuple[str, ...]:
    """Returns the files of the installed fonts, upright ones of normal weight first."""
    # Fonts that were installed after matplotlib made its list are not in it.
    files = {entry.fname for entry in font_manager.fontManager.ttflist}
    files.update(font_manager.findSystemFonts())

    def order(path: str) -> tuple[bool, bool, str]:
        name = os.path.basename(path).lower()
        styled = any(style in name for style in ('bold', 'italic', 'oblique', 'black', 'light'))
        return styled, 'sans' not in name, name

    return tuple(sorted(files, key=order))


@functools.cache
def _characters(path: str) -> frozenset[int]:
    """Returns the characters of a font; none if it cannot be used."""
    try:
        characters = frozenset(FT2Font(path).get_charmap())
        _load(path, _ANY_SIZE)
    except (OSError, RuntimeError):
        return frozenset()
    return characters


@functools.cache
def _default_path() -> str:
    return font_manager.findfont(_DEFAULT)


@functools.cache
def _load(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)
