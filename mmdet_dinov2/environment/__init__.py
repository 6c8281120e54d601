"""Checks what is installed and what the machine has, and names the command that fixes a problem.

The check imports the standard library alone, so that it works where packages are missing.
Imports that may fail are tried in a different process. ``mmdet_dinov2 env`` loads this package
without the rest of ``mmdet_dinov2``.
"""

from .check import Problem, check_environment, format_report
from .explain import explain_import_error
from .quiet import printed_without
from .threads import limit_spinning

__all__ = [
    'Problem',
    'check_environment',
    'explain_import_error',
    'format_report',
    'limit_spinning',
    'printed_without',
]
