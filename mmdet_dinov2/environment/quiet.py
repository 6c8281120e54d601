"""Messages that help nobody."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator


@contextlib.contextmanager
def printed_without(*texts: str) -> Iterator[None]:
    """Leaves lines out of what is printed meanwhile, which appears at the end.

    Args:
        *texts: Lines that hold one of these are left out.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            if not any(text in line for text in texts):
                print(line)
