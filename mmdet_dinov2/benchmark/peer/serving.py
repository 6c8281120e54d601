"""A process that builds a model once, and runs it whenever it is told to.

Models whose packages exclude each other take turns in this way. Nothing but the standard library is
imported, as a peer runs this file in its own environment.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping


def serve(build: Callable[..., Mapping[str, Callable[..., object]]]) -> None:
    """Answers calls on the standard input until it ends.

    A call is a line of JSON, its name and its keyword arguments; an answer is a line of JSON with
    ``result`` or ``error``. The first call builds the model. What a model prints goes to the
    standard error.

    Args:
        build: Returns the functions that can be called, by name; their results are JSON.
    """
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    calls: Mapping[str, Callable[..., object]] = {}
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            if name == 'build':
                calls, result = build(**arguments), None
            else:
                result = calls[name](**arguments)
            answer = dict(result=result)
        except Exception as error:
            answer = dict(error=f'{type(error).__name__}: {error}')
        print(json.dumps(answer), file=answers, flush=True)
