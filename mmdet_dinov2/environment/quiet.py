"""Hides needless messages of other packages."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator


@contextlib.contextmanager
def printed_without(*texts: str) -> Iterator[None]:
    """Hides lines that are printed inside the block; all others appear at its end.

    Args:
        *texts: Lines that contain one of these texts are hidden.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            if not any(text in line for text in texts):
                print(line)
