"""Errors of input that cannot be used."""


class InputError(ValueError):
    """A file, value or config of the user cannot be used.

    The message is one sentence with what was expected, what came and what to do; the tools print it
    without a traceback.
    """


class MissingFileError(InputError, FileNotFoundError):
    """A file of the user does not exist."""
