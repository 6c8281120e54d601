"""How messages name and list things."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def name_some(names: Sequence[str], limit: int = 10) -> str:
    """Lists names that a user chose: ``'a', 'b'`` or ``'a', 'b' and 7 more``."""
    text = ', '.join(repr(name) for name in names[:limit])
    return text if len(names) <= limit else f'{text} and {len(names) - limit} more'


def printable(text: str) -> str:
    r"""Returns text in which bytes of file names that are not UTF-8 are written as ``\xe9``."""
    return re.sub('[\ud800-\udfff]', _escape, text)


def first_names(names: Sequence[str], limit: int = 5) -> str:
    """Lists names of parameters: ``a, b`` or ``a, b, ...``."""
    return ', '.join(names[:limit]) + (', ...' if len(names) > limit else '')


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lays out a table in ASCII characters, for logs and files; lines are never wrapped."""
    # Text: brackets in a cell are not markup.
    table = Table(box=box.ASCII)
    for name in header:
        table.add_column(Text(name))
    for row in rows:
        table.add_row(*map(Text, row))
    page = io.StringIO()
    Console(file=page, width=100_000, color_system=None).print(table)
    return page.getvalue().rstrip()


def _escape(found: re.Match) -> str:
    # Python gives such a byte as a surrogate from U+DC80 on; other surrogates may be in JSON files.
    code = ord(found[0])
    return f'\\x{code - 0xDC00:02x}' if 0xDC80 <= code <= 0xDCFF else f'\\u{code:04x}'
