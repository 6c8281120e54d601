"""Configs as data: read from the text that MMEngine dumps, without running it, and flattened."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

_NAMES = {'inf': float('inf'), 'nan': float('nan')}


class NotPlainError(ValueError):
    """A text has something else than plain values; the message says where and what."""


def read_plain_config(text: str) -> dict[str, Any]:
    """Reads the text of a resolved config without running it.

    Args:
        text: Assignments of literals and ``dict(...)`` to names, optionally with a docstring.

    Returns:
        Values by name.

    Raises:
        NotPlainError: If the text contains anything else.
    """
    try:
        content = {}
        for statement in ast.parse(text).body:
            match statement:
                case ast.Expr(value=ast.Constant(value=str())):
                    continue
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    content[name] = _literal(value)
                case _:
                    raise _refusal(statement)
    except NotPlainError:
        raise
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise NotPlainError(' '.join(str(error).split())) from error
    return content


def _refusal(node: ast.AST) -> NotPlainError:
    return NotPlainError(f'line {node.lineno}: {ast.unparse(node)[:80]}')


def _literal(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value) if isinstance(value, (str, int, float, bool, type(None))):
            return value
        case ast.List(elts=items):
            return [_literal(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_literal(item) for item in items)
        case ast.Set(elts=items):
            return {_literal(item) for item in items}
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {_literal(key): _literal(value) for key, value in zip(keys, values, strict=True)}
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = _literal(operand)
            if isinstance(value, (int, float)):
                return -value
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.Call(func=ast.Name(id='dict'), args=args, keywords=keywords):
            # MMEngine writes keys that are not identifiers as `dict({'a key': ...})` or
            # `dict(**{'a key': ...})`.
            parts = [*args, *(k.value for k in keywords if k.arg is None)]
            wrong = [part for part in parts if not isinstance(part, ast.Dict)]
            if wrong:
                raise _refusal(wrong[0])
            if len(args) <= 1:
                named = {k.arg: _literal(k.value) for k in keywords if k.arg is not None}
                return dict(pair for part in parts for pair in _literal(part).items()) | named
    raise _refusal(node)


def flatten(value: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yields settings by dotted key.

    Entries of lists of dicts are numbered. Other lists, and empty dicts, are values.

    Args:
        value: A config or a part of it.
        prefix: Key of the part.
    """
    if isinstance(value, Mapping) and value:
        items = value.items()
    elif isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
        items = enumerate(value)
    else:
        yield prefix, value
        return
    for key, inner in items:
        yield from flatten(inner, f'{prefix}.{key}' if prefix else str(key))
