"""The part of the log that a person needs to see while a run goes on."""

from __future__ import annotations

import logging
from pathlib import Path

_PACKAGE = str(Path(__file__).resolve().parents[2])
# Files of mmengine that report on the progress of a run.
_PROGRESS = ('logger_hook.py', 'checkpoint_hook.py')


class ConsoleFilter(logging.Filter):
    """Passes what this project says, the progress of the run, and warnings.

    The environment, the hooks, the config and the loading of parts go to the log file only; so do
    deprecations within mmengine, which its users cannot act on.

    Attributes:
        bar: Whether a live bar shows the progress, so that lines about single steps are left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bar = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether the console shows a record."""
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            return 'will be deprecated' not in text
        if Path(record.pathname).name in _PROGRESS:
            return not text.startswith('Exp name') and not (self.bar and ' eta: ' in text)
        return record.pathname.startswith(_PACKAGE)


def console_handlers(logger: logging.Logger) -> list[logging.StreamHandler]:
    """Returns the handlers of a logger that write to the console."""
    return [
        handler
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler)
        and not isinstance(handler, logging.FileHandler)
    ]


def limit_console(logger: logging.Logger) -> None:
    """Lets the console of a logger show what :class:`ConsoleFilter` passes."""
    for handler in console_handlers(logger):
        handler.addFilter(ConsoleFilter())
