"""Options that override a config: read from text, and checked against the config."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from ..errors import InputError
from .class_keys import wrong_key
from .names import OTHER_SETTINGS, did_you_mean

_FLAG = '--cfg-options'
_AUTO = 'auto'
_BRACKETS = {')': '(', ']': '['}
# Settings whose keys nothing else checks, as no class is built from them: what mmengine reads.
_SECTIONS = {
    'auto_scale_lr': ('base_batch_size', 'enable'),
    'auto_scale_world_size': ('lr_rule',),
    'env_cfg': ('cudnn_benchmark', 'dist_cfg', 'mp_cfg', 'resource_limit'),
    'randomness': ('deterministic', 'diff_rank_seed', 'seed'),
}
_MAX_PLACES = 6


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """Reads options as the command line gives them.

    Values are read as mmengine reads them: numbers, ``true``, ``None``, ``a,b``, ``[a,b]`` and
    ``(a,b)``, and words; spaces within words stay.

    Args:
        texts: ``key=value`` each.

    Returns:
        Values by dotted name.

    Raises:
        InputError: If a text is something else; the message says what to write.
    """
    options = {}
    for index, text in enumerate(texts):
        key, equals, value = text.partition('=')
        key = key.strip()
        # `a= b`
        divided = equals and not value and '=' not in (*texts[index + 1 :], '=')[0]
        if not equals or not key or divided:
            raise InputError(_slip(texts, index))
        if value.startswith('='):
            raise InputError(f'{_FLAG} {text}: expected one = only; write {key}={value[1:]}')
        if re.search(r'\[\w+\]', key):
            written = re.sub(r'\[(\w+)\]', r'.\1', key)
            raise InputError(f'{_FLAG} {text}: entries of lists have dots; write {written}={value}')
        if not all(part and not re.search(r'[\s:,;]', part) for part in key.split('.')):
            raise InputError(
                f'{_FLAG} {text}: {key!r} is not the name of a setting, which is made of words and '
                'dots, such as train_dataloader.batch_size'
            )
        options[key] = _parse_value(f'{_FLAG} {text}', key, value.strip())
    return options


def _slip(texts: Sequence[str], index: int) -> str:
    """Words what is wrong with a text that is not ``key=value``, and what to write."""
    text = texts[index]
    around = texts[max(index - 1, 0) : index + 3] if text.startswith('=') else texts[index:][:3]
    joined = re.match(r'([\w.]+) ?= ?([^\s=]\S*)', ' '.join(around))
    said = f'{_FLAG} {text}: expected key=value, without spaces around the ='
    if joined and '=' in ''.join(around[:2]):
        return f'{said}; write {joined[1]}={joined[2]}'
    if os.path.isfile(text):
        return f'{said}; put the file {text} before {_FLAG}'
    name, colon, value = text.partition(':')
    if colon and value:
        return f'{said}; write {name.strip()}={value.strip()}'
    return said


def _parse_value(said: str, key: str, text: str) -> Any:
    if text[:1] == '{' or re.match(r'dict\(', text):
        raise InputError(f'{said}: set the entries one by one, such as {key}.type=NAME')
    if len(text) > 1 and text[0] == text[-1] and text[0] in '\'"':
        text = text[1:-1]
    open_brackets: list[str] = []
    commas = []
    for index, char in enumerate(text):
        if char in _BRACKETS.values():
            open_brackets.append(char)
        elif char in _BRACKETS and (not open_brackets or open_brackets.pop() != _BRACKETS[char]):
            raise InputError(f'{said}: the brackets of {text!r} do not match')
        elif char == ',' and not open_brackets:
            commas.append(index)
    if open_brackets:
        raise InputError(f'{said}: the brackets of {text!r} do not match')
    if not commas and text[:1] + text[-1:] in ('[]', '()'):
        inner = text[1:-1].strip()
        # A word after the only entry makes it a list of its own.
        values = _parse_value(said, key, f'{inner.rstrip(",")},') if inner else []
        return tuple(values) if text[0] == '(' else values
    if commas:
        starts, ends = [0, *(comma + 1 for comma in commas)], [*commas, len(text)]
        parts = [text[a:b].strip() for a, b in zip(starts, ends, strict=True)]
        if parts[-1] == '':
            parts.pop()
        return [_parse_value(said, key, part) for part in parts]
    return _parse_word(text)


def _parse_word(text: str) -> Any:
    if text.lower() in ('true', 'false'):
        return text.lower() == 'true'
    if text == 'None':
        return None
    if re.match(r'0\d', text):  # a name such as 007
        return text
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def check_options(options: Mapping[str, Any], cfg: Config) -> dict[str, Any]:
    """Checks that each option sets something that is read, to a value of a fitting type.

    The variables of a config file are read while the file is: a change of them afterwards would do
    nothing. The classes that are built from a config check the keys below the first one.

    Args:
        options: Values by dotted name.
        cfg: The config that the options change.

    Returns:
        The options; numbers where the config has text, such as a folder that is called 2024, have
        become text.

    Raises:
        InputError: If nothing reads an option, or its value is of a wrong type. The message names
            the setting that works.
    """
    settings = {*inspect.signature(Runner).parameters, *OTHER_SETTINGS}
    checked = {}
    for option, value in options.items():
        name, _, rest = option.partition('.')
        if name not in settings:
            _refuse_unread(option, cfg, settings)
        key = rest.partition('.')[0]
        if key and name in _SECTIONS and key not in {*_SECTIONS[name], *(cfg.get(name) or {})}:
            known = _SECTIONS[name]
            raise InputError(
                f'{_FLAG} {option}: nothing reads {key!r} of {name}'
                + (did_you_mean(key, known) or f'; it has {", ".join(known)}')
            )
        parent, _, last = option.rpartition('.')
        part = _value_at(cfg, parent) if parent else None
        if isinstance(part, Mapping) and last not in part and name not in _SECTIONS:
            problem = None if _is_built_first(option) else wrong_key(part, last)
            if problem:
                raise InputError(f'{_FLAG} {option}: {problem}')
        checked[option] = _fitting(option, value, _value_at(cfg, option))
    return checked


def _is_built_first(option: str) -> bool:
    """Returns whether a check of its own tells what keys there are: models and dataloaders."""
    if option.startswith('model.'):
        return not option.startswith(('model.test_cfg.', 'model.train_cfg.'))
    return option.count('.') == 1 and option.partition('.')[0].endswith('_dataloader')


def _refuse_unread(option: str, cfg: Config, settings: set[str]) -> None:
    """Raises where an option sets something that is no setting, unless own code may read it."""
    name = option.partition('.')[0]
    places = _places(option, cfg, settings)
    if name not in cfg:
        hint = f'; did you mean {" or ".join(places)}?' if places else did_you_mean(name, settings)
        raise InputError(f'{_FLAG} {option}: the setting {name!r} does not exist{hint}')
    imports = (cfg.get('custom_imports') or {}).get('imports') or ()
    imports = [imports] if isinstance(imports, str) else imports
    if not places and any(not str(module).startswith('mmdet_dinov2') for module in imports):
        return  # a hook of the user, for example
    hint = f'set {", ".join(places)}' if places else 'change it in the file'
    raise InputError(
        f'{_FLAG} {option}: {name!r} is a variable of the config file, which nothing reads after '
        f'the file is read; {hint}'
    )


def _places(option: str, cfg: Config, settings: set[str]) -> list[str]:
    """Returns the settings whose name ends like an option, or that have its value."""
    keys = [key for name in cfg if name in settings for key in _keys(cfg[name], name)]
    found = [key for key in keys if key.endswith(f'.{option}')]
    value = _value_at(cfg, option)
    if not found and isinstance(value, (str, list, dict, tuple)) and value:
        found = [key for key in keys if _value_at(cfg, key) == value]
    # What lies in another one that was found needs no mention.
    found = [key for key in found if not any(key.startswith(f'{other}.') for other in found)]
    return found if len(found) <= _MAX_PLACES else [*found[:_MAX_PLACES], '...']


def _keys(node: Any, prefix: str) -> Iterator[str]:
    """Yields the dotted name of a setting and of all settings in it."""
    yield prefix
    if isinstance(node, Mapping):
        items = node.items()
    elif isinstance(node, (list, tuple)) and any(isinstance(item, Mapping) for item in node):
        items = enumerate(node)
    else:
        return
    for key, inner in items:
        yield from _keys(inner, f'{prefix}.{key}')


def _value_at(cfg: Config, option: str) -> Any:
    """Returns the value of a setting; ``None`` if the config does not have it."""
    node: Any = cfg
    for part in option.split('.'):
        if isinstance(node, (list, tuple)):
            if not part.isdigit():
                raise InputError(
                    f'{_FLAG} {option}: {part!r} stands where the number of one of {len(node)} '
                    'entries of a list is expected, counted from 0'
                )
            if int(part) >= len(node):
                raise InputError(
                    f'{_FLAG} {option}: there is no entry {part}; there are {len(node)}, '
                    'counted from 0'
                )
            node = node[int(part)]
        elif isinstance(node, (Mapping, Config)):
            node = node.get(part)
        else:
            return None
    return node


def _fitting(option: str, value: Any, old: Any) -> Any:
    """Returns a value as text where the config has text; raises where the types do not fit."""
    expected = None
    if isinstance(old, bool):
        if not isinstance(value, (bool, int, type(None), dict)):
            expected = 'true or false'
    elif isinstance(old, (int, float)):
        word = isinstance(value, str) and value != _AUTO
        if word or isinstance(value, bool) or (isinstance(value, list) and len(value) == 1):
            expected = 'a number'
    elif isinstance(old, dict):
        if isinstance(value, (bool, int, float, list, tuple)):
            expected = f'settings, such as {option}.{next(iter(old), "type")}=VALUE'
    elif isinstance(old, (list, tuple)):
        if isinstance(value, str) and value != _AUTO:
            expected = f'a list, as "[{value}]"'
    elif isinstance(old, str) and old != _AUTO:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value)
    if expected is None:
        return value
    now = f' (in the config: {old!r})' if isinstance(old, (bool, int, float)) else ''
    comma = '; leave out the comma' if isinstance(value, list) and len(value) == 1 else ''
    raise InputError(f'{_FLAG} {option}: expected {expected}{now}, found {value!r}{comma}')
