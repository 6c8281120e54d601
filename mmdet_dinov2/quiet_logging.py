"""Hides log messages that say nothing to the person who waits for a result."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_messages(level: int = logging.INFO) -> Iterator[None]:
    """Hides log messages up to a level inside the block, of all loggers.

    Args:
        level: The highest level that is hidden. mmengine logs each parameter that is initialised as
            information.
    """
    before = logging.root.manager.disable
    logging.disable(max(before, level))
    try:
        yield
    finally:
        logging.disable(before)
