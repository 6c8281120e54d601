"""The full check of a dataset: the checks of `preflight`, all images, and facts to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine import Config

from ..wording import name_some
from .annotation_columns import AnnotationColumns
from .box_counts import BoxCounts, count_boxes, trained_on
from .dataset_source import DatasetSource
from .findings import Finding
from .image_checks import (
    check_inspected,
    check_near_duplicates,
    check_shared_images,
    image_paths,
    inspect_images,
)
from .preflight import check_files
from .splits import SPLITS

# Limits of the bins for sizes of boxes, in units of the finest stride.
_BINS = (0.5, 1, 2, 4, 8, 16)
# Fraction of boxes smaller than the finest stride above which the check warns.
_MANY_SMALL = 0.1


@dataclass(frozen=True)
class DatasetReport:
    """Result of the full check.

    Attributes:
        findings: Problems, information and facts about every dataset.
        files: The annotation files that could be read.
    """

    findings: list[Finding]
    files: dict[DatasetSource, AnnotationColumns]

    @property
    def failed(self) -> bool:
        """Whether there are errors."""
        return any(finding.severity == 'error' for finding in self.findings)


def check_dataset(
    cfg: Config,
    splits: Sequence[str] = SPLITS,
    workers: int = 4,
    start: Callable[[int], Callable[[], None]] = lambda total: lambda: None,
) -> DatasetReport:
    """Checks the annotation files and every image of a config.

    Args:
        cfg: The config of a run.
        splits: Which of ``'train'``, ``'val'`` and ``'test'`` to check.
        workers: Number of images that are opened at the same time.
        start: Called with the number of images; returns a function to call after each of them.
    """
    findings, files = check_files(cfg, splits)
    entries = {source: image_paths(source, coco) for source, coco in files.items()}
    paths = {path for images in entries.values() for path in images}
    inspected = inspect_images(sorted(paths), workers, start(len(paths)))
    for source, coco in files.items():
        findings += check_inspected(source, coco, entries[source], inspected)
        counts = count_boxes(coco, source.classes, source.min_size)
        findings += _count_facts(source, coco, counts)
        findings += _size_facts(cfg, source, coco)
    findings += check_shared_images(entries, inspected)
    findings += check_near_duplicates(entries, inspected)
    return DatasetReport(findings, files)


def _count_facts(
    source: DatasetSource, coco: AnnotationColumns, counts: BoxCounts
) -> list[Finding]:
    """Returns the numbers of images and boxes."""
    per_class = counts.per_class
    listed = ', '.join(f'{name} {per_class[name]}' for name in source.classes[:20])
    more = ', ...' if len(source.classes) > 20 else ''
    with_boxes = int((counts.per_image > 0).sum())
    largest = counts.per_image.max(initial=0)
    facts = [
        Finding(
            'fact',
            source.split,
            f"'{coco.path}': {coco.num_images} images, {coco.num_images - with_boxes} of them "
            f'without boxes; {counts.usable} usable boxes and {counts.crowd} crowd regions; up to '
            f'{largest} boxes in an image; boxes per class: {listed}{more}',
        )
    ]
    empty = [name for name in source.classes if not per_class[name]]
    if empty and source.split == 'train' and counts.usable:
        facts.append(
            Finding(
                'warning',
                source.split,
                f"{len(empty)} of {len(source.classes)} classes have no boxes in '{coco.path}' "
                f'({name_some(empty)}), so they cannot be learned; add boxes or remove the classes',
            )
        )
    return facts


def _size_facts(cfg: Config, source: DatasetSource, coco: AnnotationColumns) -> list[Finding]:
    """Returns the sizes of the boxes as the model sees them, in units of its finest stride."""
    stride = finest_stride(cfg)
    if stride is None:
        return []
    trained = trained_on(coco)
    sizes = np.sqrt(coco.boxes[trained, 2] * coco.boxes[trained, 3])
    if not len(sizes):
        return []
    scale = _resize_scale(source.config.get('pipeline') or ())
    if scale is not None:
        long = max(scale) / np.maximum(coco.widths, coco.heights)
        short = min(scale) / np.minimum(coco.widths, coco.heights)
        sizes *= np.minimum(long, short)[coco.image_index[trained]]
    sizes /= stride
    bins = np.bincount(np.searchsorted(_BINS, sizes, side='right'), minlength=len(_BINS) + 1)
    labels = [f'below {_BINS[0]}', *(f'{a}-{b}' for a, b in zip(_BINS, _BINS[1:], strict=False))]
    labels.append(f'from {_BINS[-1]}')
    shares = ', '.join(
        f'{label}: {bins[i] / len(sizes):.0%}' for i, label in enumerate(labels) if bins[i]
    )
    at = 'the size of the files' if scale is None else f'a scale of {max(scale)} x {min(scale)}'
    findings = [
        Finding(
            'fact',
            source.split,
            f'sizes of the boxes (root of the area) at {at}, in units of the finest stride of '
            f'{stride:g} pixels: {shares}',
        )
    ]
    small = (sizes < 1).mean()
    if small > _MANY_SMALL:
        findings.append(
            Finding(
                'warning',
                source.split,
                f'{small:.0%} of the boxes are smaller than the finest stride of the model '
                f'({stride:g} pixels) at {at}; enlarge the images, or add a finer level '
                '(`model.neck.scale_factors`)',
            )
        )
    return findings


def finest_stride(cfg: Mapping[str, Any]) -> float | None:
    """Returns the finest stride of a feature pyramid in pixels; ``None`` for other models."""
    model = cfg.get('model') or {}
    patch = (model.get('backbone') or {}).get('patch_size')
    scales = (model.get('neck') or {}).get('scale_factors')
    if not isinstance(patch, int) or not scales:
        return None
    return patch / max(scales)


def _resize_scale(pipeline: Sequence[Any]) -> tuple[float, float] | None:
    """Returns the scale that images are resized to, the middle one of several, or ``None``."""
    for transform in _transforms(pipeline):
        scales = transform.get('scales')
        if transform.get('type') == 'RandomChoiceResize' and scales:
            return tuple(scales[len(scales) // 2])
        scale = transform.get('scale')
        if transform.get('type') in ('Resize', 'RandomResize') and isinstance(scale, (tuple, list)):
            first = scale[0] if isinstance(scale[0], (tuple, list)) else scale
            return tuple(first)
    return None


def _transforms(pipeline: Any) -> Iterator[Mapping[str, Any]]:
    """Yields all transforms of a pipeline, also those inside others."""
    for part in pipeline if isinstance(pipeline, (list, tuple)) else ():
        if isinstance(part, Mapping):
            yield part
            yield from _transforms(part.get('transforms'))
        else:
            yield from _transforms(part)
