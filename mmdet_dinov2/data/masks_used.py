"""Whether the transforms of a dataset load masks, and so need segmentations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import LoadAnnotations
from mmengine.dataset import Compose

_KEY = 'with_mask'
# They load no masks unless they are told to.
_LOADERS = ('LoadAnnotations', 'mmdet.LoadAnnotations', LoadAnnotations)


def uses_masks(transforms: Sequence[Any]) -> bool:
    """Returns whether transforms may load masks.

    They do not if those that load annotations say so. Where none is known to load annotations, any
    of them may read the masks.

    Args:
        transforms: Transforms, or their configs, which may hold others.
    """
    return masks_loaded(transforms) is not False


def masks_loaded(transforms: Sequence[Any]) -> bool | None:
    """Returns whether transforms load masks; ``None`` where none is known to load annotations.

    Args:
        transforms: Transforms, or their configs, which may hold others.
    """
    said = [with_mask for part in transforms for with_mask in _said(part)]
    return any(said) if said else None


def _said(part: Any) -> Iterator[bool]:
    """Yields what a transform or its config, and those inside of it, say of masks."""
    if isinstance(part, (BaseTransform, Compose)):
        if hasattr(part, _KEY):
            yield bool(part.with_mask)
        part = vars(part)
    elif isinstance(part, Mapping) and (_KEY in part or part.get('type') in _LOADERS):
        yield bool(part.get(_KEY))
    if isinstance(part, Mapping):
        part = part.values()
    elif not isinstance(part, (list, tuple)):
        return
    for inner in part:
        yield from _said(inner)
