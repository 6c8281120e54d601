"""Reading of text that people's tools have written."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from ..errors import InputError

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """Reads a text file in UTF-8, or in UTF-16 where a byte order mark says so.

    Raises:
        InputError: If it is not text.
    """
    try:
        return _decode(path.read_bytes())
    except UnicodeDecodeError as error:
        raise InputError(
            f'{path} is not a text file in UTF-8 ({error}); save it in this encoding, or export '
            'it again'
        ) from error


def read_json(path: Path) -> Any:
    """Reads a JSON file in the encodings of :func:`read_text`.

    Raises:
        InputError: If it is not JSON.
    """
    try:
        return json.loads(_decode(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"annotation file '{path}' is not valid JSON ({error}); export or download it again"
        ) from error


def as_utf8(content: bytes) -> bytes:
    """Returns the bytes of a text in UTF-8 without a byte order mark; only UTF-16 is decoded.

    Raises:
        UnicodeDecodeError: If it begins like UTF-16 and is not.
    """
    if content.startswith(_UTF16_MARKS):
        return content.decode('utf-16').encode()
    return content.removeprefix(codecs.BOM_UTF8)


def _decode(content: bytes) -> str:
    utf16 = content.startswith(_UTF16_MARKS)
    return content.decode('utf-16' if utf16 else 'utf-8-sig')
