"""The keys that the class takes which a part of a config names."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import mmdet.registry
import mmengine.registry
from mmengine.registry import Registry

from .own_types import own_type

# Keys that mmengine takes out of a part before it builds the class.
_TAKEN = {
    '_delete_', '_scope_', 'by_epoch', 'constructor', 'convert_to_iter_based', 'init_cfg',
    'optimizer', 'paramwise_cfg', 'priority', 'type',
}  # fmt: skip
# Arguments that mmengine gives to loops.
_GIVEN = {'dataloader', 'runner'}
_SIMILAR = 0.8


def wrong_key(part: Mapping[str, Any], key: str) -> str | None:
    """Says why a key that a part of a config does not have yet cannot be added to it.

    Args:
        part: A part of a config, with the ``type`` of the class that is built from it or without.
        key: The key.

    Returns:
        The end of a sentence, with the key that was probably meant; ``None`` if the key may be
        right. Where a class takes any keys, and where no class is known, only those are wrong that
        resemble another one.
    """
    if key in _TAKEN:
        return None
    cls = _class_of(part.get('type'))
    known, takes_any = parameters_of(cls) if cls is not None else (set(), True)
    if key in known:
        return None
    known = (known | set(part)) - _TAKEN - _GIVEN
    close = difflib.get_close_matches(key, sorted(known), n=1, cutoff=_SIMILAR)
    if takes_any and not close:
        return None
    name = f' on {cls.__name__}' if cls is not None else ''
    hint = f'; did you mean {close[0]}?' if close else f'; it takes {", ".join(sorted(known))}'
    return f'the key {key!r} does not exist{name}{hint}'


def _class_of(type_: Any) -> type | None:
    if isinstance(type_, type):
        return type_
    name = own_type(type_)
    if not isinstance(name, str):
        return None
    for module in (mmdet.registry, mmengine.registry):
        for registry in vars(module).values():
            found = registry.get(name) if isinstance(registry, Registry) else None
            if inspect.isclass(found):
                return found
    return None


def parameters_of(cls: type) -> tuple[set[str], bool]:
    """Returns the arguments of a class and of those that it passes others on to.

    Also returns whether the last of these takes any others.
    """
    known: set[str] = set()
    for base in cls.__mro__:
        if '__init__' not in vars(base) or base is object:
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        known.update(p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return known - {'self'}, False
    return known - {'self'}, True
