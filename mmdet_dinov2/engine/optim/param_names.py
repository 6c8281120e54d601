"""Names of parameters without the marks of wrappers."""

from __future__ import annotations

from collections.abc import Sequence

_WRAPPERS = ('_fsdp_wrapped_module.', '_checkpoint_wrapped_module.', '_orig_mod.')


def clean_param_name(name: str) -> str:
    """Removes what FSDP, activation checkpointing and ``torch.compile`` add to a name."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, '')
    return name


def describe_names(names: Sequence[str]) -> str:
    """Names the modules that parameters belong to, as deep as three names suffice."""
    for depth in (3, 2, 1):
        modules = list(dict.fromkeys('.'.join(name.split('.')[:depth]) for name in names))
        if len(modules) <= 3:
            return ', '.join(modules)
    return ', '.join(modules[:2]) + f' and {len(modules) - 2} more'
