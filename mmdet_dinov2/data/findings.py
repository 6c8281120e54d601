"""Findings of the dataset check, and their presentation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rich.table import Table
from rich.text import Text

from ..errors import InputError

_STYLES = {'error': 'bold red', 'warning': 'yellow', 'info': 'cyan', 'fact': 'dim'}


@dataclass(frozen=True)
class Finding:
    """One finding of the dataset check.

    Attributes:
        severity: ``'error'`` for what makes a run fail or learn the wrong thing, ``'warning'`` for
            what is legal but often a mistake, ``'info'`` for what is not checked or is taken care
            of, ``'fact'`` for numbers about the data.
        split: ``'train'``, ``'val'`` or ``'test'``.
        message: One sentence, in the form of error messages, that names the file or key, the value
            and the remedy.
    """

    severity: Literal['error', 'warning', 'info', 'fact']
    split: str
    message: str


def raise_on_errors(findings: Iterable[Finding]) -> None:
    """Raises an error if any finding is an error.

    Raises:
        InputError: With one line per finding, first the errors, then the warnings.
    """
    findings = list(findings)
    errors = [finding for finding in findings if finding.severity == 'error']
    if not errors:
        return
    warnings = [finding for finding in findings if finding.severity == 'warning']
    lines = [f'the dataset check found {len(errors)} error{"s" if len(errors) > 1 else ""}:']
    lines += [f'  error [{finding.split}]: {finding.message}' for finding in errors]
    lines += [f'  warning [{finding.split}]: {finding.message}' for finding in warnings]
    raise InputError('\n'.join(lines))


def findings_table(findings: Iterable[Finding]) -> Table:
    """Returns a table for the terminal: errors first, then warnings, information and facts.

    A finding that several splits share is one row.
    """
    order = list(_STYLES)
    rows: dict[tuple[str, str], list[str]] = {}
    for finding in sorted(findings, key=lambda finding: order.index(finding.severity)):
        splits = rows.setdefault((finding.severity, finding.message), [])
        if finding.split not in splits:
            splits.append(finding.split)
    table = Table('', 'split', 'finding', show_lines=True)
    for (severity, message), splits in rows.items():
        # Text: brackets in messages are not markup.
        table.add_row(Text(severity, _STYLES[severity]), ', '.join(splits), Text(message))
    return table
