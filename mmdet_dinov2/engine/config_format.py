"""Formatting of configs by processes that start at once."""

from __future__ import annotations

import os
import sys

_CACHE_FOLDER = 'XDG_CACHE_HOME'


def load_yapf() -> None:
    """Imports yapf, with which mmengine formats configs, without its cache of grammars.

    On its first import yapf writes the grammars to the cache folder of the user and gives the files
    their final names before their content has left its buffer. Another process that starts at that
    moment, or any later one if the first was killed then, dies with ``EOFError: Ran out of input``.
    To make the grammars anew takes a tenth of a second.
    """
    if 'yapf' in sys.modules:
        return
    before = os.environ.get(_CACHE_FOLDER)
    # A folder that cannot exist: nothing is found in it, and yapf goes on when it cannot write.
    os.environ[_CACHE_FOLDER] = os.devnull
    try:
        import yapf  # noqa: F401
    finally:
        if before is None:
            del os.environ[_CACHE_FOLDER]
        else:
            os.environ[_CACHE_FOLDER] = before
