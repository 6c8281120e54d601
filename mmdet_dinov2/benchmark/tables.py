"""Tables of measurements, printed row by row and saved as JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import write_text
from .machine import one_line

NOT_MEASURED = 'not measured'


@dataclass
class Table:
    """Rows of results under one heading.

    Attributes:
        title: Heading.
        columns: Names of the columns.
        notes: Lines above the table: sizes, seeds and whatever else the figures depend on.
        rows: Values of each row by column; a missing value becomes an empty cell.
    """

    title: str
    columns: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def as_markdown(self) -> str:
        """Returns the table in Markdown."""
        lines = [f'### {self.title}', '']
        lines += [f'{note}  ' for note in self.notes] + [''] * bool(self.notes)
        lines += [_line(self.columns), _line(['---'] * len(self.columns))]
        lines += [_line([_text(row.get(column)) for column in self.columns]) for row in self.rows]
        return '\n'.join(lines)

    def as_dict(self) -> dict:
        """Returns the table, ready for JSON."""
        return dict(
            title=self.title,
            notes=self.notes,
            rows=[{key: _plain(value) for key, value in row.items()} for row in self.rows],
        )


class BenchmarkReport:
    """All tables of a benchmark run, saved after every row.

    Args:
        folder: Folder for ``NAME.json`` and ``NAME.md``; it is created.
        name: Name of the report.
        command: The command line of the run.
        machine: The result of ``describe_machine``.
        echo: Called with every line as soon as it is complete.
    """

    def __init__(
        self, folder: str | Path, name: str, command: str, machine: Mapping[str, Any], echo=print
    ) -> None:
        self.path = Path(folder) / name
        self.command = command
        self.machine = dict(machine)
        self.tables: list[Table] = []
        self._echo = echo
        self.path.parent.mkdir(parents=True, exist_ok=True)
        echo(f'Command: `{command}`')
        echo(f'Machine: {one_line(self.machine)}')

    def table(self, title: str, columns: Sequence[str], notes: Sequence[str] = ()) -> Table:
        """Begins a table; :meth:`add` adds rows to it."""
        table = Table(title, tuple(columns), list(notes))
        self.tables.append(table)
        self._echo('\n' + table.as_markdown())
        return table

    def add(self, table: Table, row: Mapping[str, Any]) -> None:
        """Adds a row, values by column, to a table of this report; prints it and saves files."""
        table.rows.append(dict(row))
        self._echo(_line([_text(row.get(column)) for column in table.columns]))
        self.save()

    def save(self) -> None:
        """Writes ``NAME.json`` and ``NAME.md``."""
        content = dict(
            command=self.command,
            machine=self.machine,
            tables=[table.as_dict() for table in self.tables],
        )
        write_text(f'{self.path}.json', json.dumps(content, indent=1) + '\n')
        write_text(f'{self.path}.md', self.as_markdown() + '\n')

    def as_markdown(self) -> str:
        """Returns command, machine and all tables in Markdown."""
        head = [f'Command: `{self.command}`  ', f'Machine: {one_line(self.machine)}', '']
        return '\n'.join(head) + '\n\n'.join(table.as_markdown() for table in self.tables)


def _line(cells: Sequence[str]) -> str:
    return f'| {" | ".join(cells)} |'


def _text(value: Any) -> str:
    """Words a cell, numbers with three significant digits."""
    if value is None:
        return ''
    if isinstance(value, float):
        return f'{value:.3g}' if abs(value) < 1000 else f'{value:.0f}'
    return str(value)


def _plain(value: Any) -> Any:
    return value.as_dict() if hasattr(value, 'as_dict') else value
