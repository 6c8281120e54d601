"""Processes that keep a model and run it when they are told to; see `peer/serving.py`."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from .isolated import CaseError, reason_of

_ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """A process that serves calls. As a context, it ends with the body.

    Args:
        program: Arguments of Python: a file, or ``-m`` and a module.
        time_limit: Largest number of seconds of a call.
        python: Interpreter.
        variables: Environment variables besides those of this process.
        **arguments: Arguments of its function ``build``, as JSON. It works while this process goes
            on; the first call waits for it.
    """

    def __init__(
        self,
        program: Sequence[str],
        time_limit: float,
        python: str = sys.executable,
        variables: Mapping[str, str] | None = None,
        **arguments,
    ) -> None:
        self._time_limit = time_limit
        self._errors = tempfile.TemporaryFile('w+')
        self._process = subprocess.Popen(
            [python, *program],
            env={**os.environ, **(variables or {})},
            cwd=tempfile.gettempdir(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._is_built = False
        self._say('build', arguments)

    def call(self, name: str, **arguments):
        """Calls a function of the process.

        Args:
            name: The function.
            **arguments: Its arguments, as JSON.

        Returns:
            Its result.

        Raises:
            CaseError: If it fails, takes longer than the limit, or the process has ended.
        """
        if not self._is_built:
            self._answer()
            self._is_built = True
        self._say(name, arguments)
        return self._answer()

    def _say(self, name: str, arguments: dict) -> None:
        try:
            self._process.stdin.write(f'{json.dumps([name, arguments])}\n'.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says why

    def _answer(self):
        ready, _, _ = select.select([self._process.stdout], [], [], self._time_limit)
        if not ready:
            raise CaseError(f'took longer than {self._time_limit:.0f} s')
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            raise CaseError(reason_of(self._process.returncode, self._errors.read()))
        answer = json.loads(line)
        if 'error' in answer:
            raise CaseError(answer['error'])
        return answer['result']

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            try:
                file.close()
            except BrokenPipeError:
                pass


def own_variables() -> dict[str, str]:
    """Returns the variables with which a process finds the package of this one."""
    return dict(
        PYTHONPATH=os.pathsep.join(filter(None, (str(_ROOT), os.environ.get('PYTHONPATH'))))
    )
