"""How messages name and list things."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def name_some(names: Sequence[str], limit: int = 10) -> str:
    """Lists names that a user chose: ``'a', 'b'`` or ``'a', 'b' and 7 more``."""
    text = ', '.join(repr(name) for name in names[:limit])
    return text if len(names) <= limit else f'{text} and {len(names) - limit} more'


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
