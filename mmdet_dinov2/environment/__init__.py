"""Check of what is installed and what the machine has, with the command that mends each problem.

Nothing here imports more than the standard library, so that it works where something is missing;
what may fail is tried in another process. ``tools/check_env.py`` loads this package without
``mmdet_dinov2`` around it.
"""

from .check import Problem, check_environment, format_report
from .explain import explain_import_error
from .load import busy_cores
from .quiet import printed_without

__all__ = [
    'Problem',
    'busy_cores',
    'check_environment',
    'explain_import_error',
    'format_report',
    'printed_without',
]
