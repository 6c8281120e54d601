"""Text of configs for logs, work folders and checkpoints."""

from __future__ import annotations

import copy
import keyword
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from ..errors import InputError

_WIDTH = 100
_INDENT = '    '


class ReadableConfig(Config):
    """A config whose text is laid out by this module.

    mmengine asks for the text five times before the first step and again for each checkpoint, and
    lays it out with yapf, which takes more than a second each time. yapf also shares files in the
    cache folder of the user between processes without a lock, so that one of several processes that
    start together may die. The standard library's ``pprint`` indents each level by the length of
    its key, which leaves no room for a model config, and cannot write classes.
    """

    @property
    def pretty_text(self) -> str:
        """The config as assignments in alphabetical order, which mmengine reads as a config file.

        Raises:
            InputError: If a key of the first level cannot be the name of a variable.
        """
        return format_config(self.to_dict())


def readable_config(cfg: Config | Mapping[str, Any]) -> ReadableConfig:
    """Copies a config into one whose text this module lays out."""
    if not isinstance(cfg, Config):
        return ReadableConfig(copy.deepcopy(cfg))
    return ReadableConfig(
        copy.deepcopy(cfg.to_dict()),
        cfg_text=cfg.text,
        filename=cfg.filename,
        env_variables=dict(cfg.env_variables),
    )


def format_config(content: Mapping[str, Any]) -> str:
    """Lays out a config as Python assignments.

    Args:
        content: Values by name: Python literals and classes.

    Returns:
        Sorted assignments; values that do not fit on a line are divided.

    Raises:
        InputError: If a key of the first level cannot be the name of a variable.
    """
    for key in content:
        if not _is_name(key):
            raise InputError(
                f'config key {key!r} cannot be the name of a variable, so the config cannot be '
                'written to a file; rename the key'
            )
    lines = (f'{key} = ' + _format(content[key], '', len(key) + 3) for key in sorted(content))
    return ''.join(f'{line}\n' for line in lines)


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key)


def _format(value: Any, indent: str, used: int) -> str:
    """Formats a value on one line if it fits after ``used`` characters, else on several."""
    if isinstance(value, Mapping):
        named = all(map(_is_name, value))
        keys = sorted(value, key=str)
        opening, closing = ('dict(', ')') if named else ('{', '}')
        entries = [(f'{key}=' if named else f'{key!r}: ', value[key]) for key in keys]
    elif isinstance(value, (list, tuple)):
        opening, closing = '[]' if isinstance(value, list) else '()'
        entries = [('', item) for item in value]
    elif isinstance(value, type):
        return (
            value.__name__
            if value.__module__ == 'builtins'
            else f'{value.__module__}.{value.__name__}'
        )
    else:
        return repr(value) if isinstance(value, str) else str(value)
    deeper = indent + _INDENT
    # One character is left for the comma.
    texts = [key + _format(item, deeper, len(deeper) + len(key) + 1) for key, item in entries]
    comma = ',' if isinstance(value, tuple) and len(texts) == 1 else ''
    line = f'{opening}{", ".join(texts)}{comma}{closing}'
    if not texts or (used + len(line) <= _WIDTH and '\n' not in line):
        return line
    return ''.join([opening, *(f'\n{deeper}{text},' for text in texts), f'\n{indent}{closing}'])
