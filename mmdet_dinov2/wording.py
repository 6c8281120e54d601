"""Wording of messages."""

from __future__ import annotations

from collections.abc import Sequence


def name_some(names: Sequence[str], limit: int = 10) -> str:
    """Words a list of names that a user chose: ``'a', 'b'`` or ``'a', 'b' and 7 more``."""
    text = ', '.join(repr(name) for name in names[:limit])
    return text if len(names) <= limit else f'{text} and {len(names) - limit} more'


def first_names(names: Sequence[str], limit: int = 5) -> str:
    """Words a list of parameters: ``a, b`` or ``a, b, ...``."""
    return ', '.join(names[:limit]) + (', ...' if len(names) > limit else '')
