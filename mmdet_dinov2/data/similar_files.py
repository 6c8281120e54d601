"""Which existing file a missing one may have been meant to be."""

from __future__ import annotations

import difflib
import posixpath
import unicodedata
from collections.abc import Iterable

_MAX_COMPARED = 5000


def suggest_file(name: str, files: Iterable[str]) -> str:
    """Returns what a missing file may have been meant to be, as the end of a sentence.

    Args:
        name: The missing file, with or without folders.
        files: Names of files that exist.
    """
    wanted = posixpath.basename(name.replace('\\', '/'))
    stem = _stem(wanted)
    by_rank: dict[int, str] = {}
    others = []
    for file in files:
        base = posixpath.basename(file)
        if base.casefold() == wanted.casefold():
            by_rank.setdefault(0 if base == wanted else 1, file)
        elif _stem(base) == stem:
            by_rank.setdefault(2, file)
        elif len(others) < _MAX_COMPARED:
            others.append(file)
    if by_rank:
        rank = min(by_rank)
        reason = ('in another folder', 'the case differs', 'the ending differs')[rank]
        return f'{by_rank[rank]!r} would fit ({reason})'
    bases = {posixpath.basename(file): file for file in others}
    close = difflib.get_close_matches(wanted, bases, n=1, cutoff=0.8)
    return f'did you mean {bases[close[0]]!r}?' if close else ''


def _stem(name: str) -> str:
    return unicodedata.normalize('NFC', posixpath.splitext(name)[0]).casefold()
