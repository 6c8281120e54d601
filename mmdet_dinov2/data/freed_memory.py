"""Memory that a process has freed and the C library keeps."""

from __future__ import annotations

import ctypes
import sys


def return_freed_memory() -> None:
    """Returns freed memory to the system if the C library is glibc.

    Objects of many sizes leave holes between what is still in use, which glibc keeps: those of an
    annotation file that was read, or batches, with which a training on a CPU grows for thousands of
    steps.
    """
    if sys.platform == 'linux':
        trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
        if trim is not None:
            trim(0)
