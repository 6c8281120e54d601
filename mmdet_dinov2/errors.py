"""Errors of input that cannot be used."""


class InputError(ValueError):
    """A file, value or config of the user cannot be used.

    The message is one sentence: what was expected, what was found, and what to do. The tools print
    it without a traceback.
    """


class MissingFileError(InputError, FileNotFoundError):
    """A file of the user does not exist."""
