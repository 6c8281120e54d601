"""What the tools print beside their results: errors in one sentence, warnings, progress."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmdet.registry import MODELS
from rich.console import Console
from rich.progress import Progress
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from .. import models
from ..config.class_keys import parameters_of
from ..config.names import did_you_mean
from ..errors import InputError
from .processes import is_first_process, process_rank

_TRACEBACK = 'MMDET_DINOV2_TRACEBACK'
# torchrun names the file in which it looks for the error of a process.
_ERROR_FILE = 'TORCHELASTIC_ERROR_FILE'


@contextmanager
def one_sentence_errors(every_error: bool = False) -> Iterator[None]:
    """Ends the program with one sentence instead of a traceback.

    Args:
        every_error: Whether to do so for every error, which suits the time while the input is read
            and checked; otherwise only for ``InputError``.
    """
    if os.environ.get(_TRACEBACK):
        yield
        return
    try:
        yield
    except Exception as error:
        _tell_torchrun(error)
        if not every_error and not isinstance(error, InputError):
            raise
        # Without torchrun, nobody else reports an error that only one process meets.
        if is_first_process() or _ERROR_FILE not in os.environ:
            process = '' if is_first_process() else f'(process {process_rank()}) '
            print(f'error: {process}{_describe(error)}', file=sys.stderr)
            if not isinstance(error, (InputError, FileNotFoundError)):
                print(f'({_TRACEBACK}=1 shows where)', file=sys.stderr)
        sys.exit(1)


def tell(text: str) -> None:
    """Prints text in the first process; warnings go to the error output."""
    if is_first_process():
        print(text, file=sys.stderr if text.startswith('warning') else sys.stdout)


@contextmanager
def progress_bars(what: str) -> Iterator[Callable[[int | None], Callable[[], None]]]:
    """Shows progress bars while the body runs, on a terminal only.

    Args:
        what: Name of the bars.

    Yields:
        A function that starts a bar with a number of steps, None if it is not known, and returns
        the function to call after each step.
    """
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:

        def start(total: int | None) -> Callable[[], None]:
            task = progress.add_task(what, total=total)
            return lambda: progress.advance(task)

        yield start


def _tell_torchrun(error: Exception) -> None:
    """Records the error for torchrun, which prints the one of the first process that failed."""
    if _ERROR_FILE in os.environ:
        handler = get_error_handler()
        handler.initialize()
        handler.record_exception(error)


def _describe(error: Exception) -> str:
    """Words an error in one sentence; for an unknown config key it names the known ones."""
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if ' in DataLoader worker process ' in message:
        # torch puts the traceback of the worker into the message; the last part is the reason.
        message = message.rpartition(f'{type(error).__name__}: ')[2].strip()
    match = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", message)
    if match is None:
        return message or type(error).__name__
    class_name, key = match.groups()
    cls = MODELS.get(class_name) or getattr(models, class_name, None)
    if cls is None:
        return message
    # The config names the class that passed the key on to this one.
    for frame, _ in traceback.walk_tb(error.__traceback__):
        built = type(frame.f_locals.get('self'))
        if issubclass(built, cls):
            cls = built
    known = sorted(parameters_of(cls)[0])
    hint = did_you_mean(key, known) or ';'
    return f'config key {key!r} does not exist on {cls.__name__}{hint} it takes {", ".join(known)}'
