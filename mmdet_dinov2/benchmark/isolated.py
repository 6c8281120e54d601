"""Runs a measurement in a process of its own.

A measurement that fails, hangs or takes all memory then costs only one row of a table, and the
memory of the process is that of the measurement.

As a program, this module reads a function and its arguments from the command line.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
# Number of last lines of its error output that describe a failed case.
_MAX_ERROR_LINES = 3


class CaseError(RuntimeError):
    """A case failed; the message says why."""


def run_isolated(
    function: Callable[..., dict],
    time_limit: float | None,
    variables: Mapping[str, str] | None = None,
    **kwargs,
) -> dict:
    """Calls a function in a new process.

    Args:
        function: A function at the top level of a module, whose result is JSON.
        time_limit: Seconds after which the process is ended; None for no limit.
        variables: Environment variables of the process, besides those of this one.
        **kwargs: Arguments of the function, as JSON.

    Returns:
        The result of the function.

    Raises:
        CaseError: If the function fails or takes longer.
    """
    case = json.dumps([function.__module__, function.__qualname__, kwargs])
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / 'result.json'
        paths = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get('PYTHONPATH'))))
        try:
            process = subprocess.run(
                [sys.executable, '-m', __name__, case, str(result)],
                env={**os.environ, **(variables or {}), 'PYTHONPATH': paths},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                timeout=time_limit,
            )
        except subprocess.TimeoutExpired:
            raise CaseError(f'took longer than {time_limit:.0f} s') from None
        if process.returncode:
            raise CaseError(reason_of(process.returncode, process.stderr))
        return json.loads(result.read_text())


def reason_of(code: int, errors: str) -> str:
    """Words why a process ended.

    Args:
        code: Its exit code.
        errors: What it wrote to the standard error.
    """
    if code < 0:
        return f'ended by signal {-code}' + (' (out of memory?)' if code == -9 else '')
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return ' '.join(lines[-_MAX_ERROR_LINES:]) or f'exit code {code}'


def _main(case: str, result: str) -> None:
    module, name, kwargs = json.loads(case)
    logging.disable(logging.INFO)  # messages of models about their construction
    function = getattr(importlib.import_module(module), name)
    Path(result).write_text(json.dumps(function(**kwargs)))


if __name__ == '__main__':
    _main(*sys.argv[1:])
