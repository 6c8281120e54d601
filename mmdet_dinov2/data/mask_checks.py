"""The checks of the masks in a COCO annotation file. They return findings and raise nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine import Config

from .annotation_columns import AnnotationColumns
from .box_counts import trained_on
from .dataset_source import DatasetSource
from .evaluators import scores_masks
from .findings import Finding
from .mask_counts import HOLES, MaskCounts, count_masks
from .masks_used import masks_loaded
from .usable_masks import UNUSABLE

# Share of masks that are rectangles above which they are named, and above which that is a warning.
_SOME_RECTANGLES = 0.05
_MOST_RECTANGLES = 0.5


def check_mask_loading(cfg: Config, sources: Sequence[DatasetSource]) -> list[Finding]:
    """Checks that the training of a model with a mask head loads masks, and that others need none.

    Detectors of mmdet have heads of other names, which only their own code knows.
    """
    model = cfg.get('model') or {}
    if not any(_values(model, 'mask_head')):
        ours = str(model.get('type')).rpartition('.')[2] == 'PaddingAwareDINO'
        return [
            Finding(
                'error',
                split,
                f"`{split}_evaluator` scores masks ('segm'), but the model finds boxes only; set "
                f"{split}_evaluator.metric='bbox', or add a mask_head to the model",
            )
            for split in dict.fromkeys(source.split for source in sources)
            if ours and split != 'train' and scores_masks(cfg, split)
        ]
    return [
        Finding(
            'error',
            source.split,
            f'the model has a mask_head, but `{source.key}.pipeline` loads no masks; set '
            'with_mask=True in its LoadAnnotations',
        )
        for source in sources
        if source.split == 'train'
        if masks_loaded(source.config.get('pipeline') or ()) is False
    ]


def check_masks(source: DatasetSource, coco: AnnotationColumns) -> list[Finding]:
    """Checks the masks of the objects that are trained on or scored.

    Args:
        source: The dataset.
        coco: Its annotation file, with segmentations.
    """
    if not coco.annotated:
        return []
    is_class = np.array([name in source.classes for name in coco.category_names], dtype=bool)
    objects = trained_on(coco) & (coco.category_index >= 0)
    objects[objects] = is_class[coco.category_index[objects]]
    counts = count_masks(coco, np.flatnonzero(objects))
    pipeline = source.config.get('pipeline') or ()
    if not counts.total:
        return []
    if not counts.usable:
        return [
            Finding(
                'error',
                source.split,
                f"'{coco.path}' has no mask for any of its {counts.total} objects, but this config "
                f"uses masks{_listed(coco, counts, _unusable(counts))}; add 'segmentation' to its "
                'annotations, or use a config without masks',
            )
        ]
    return [
        *_check_unusable(source, coco, counts, pipeline),
        *_check_odd(source, coco, counts),
        *_check_rectangles(source, coco, counts),
        *_check_run_lengths(source, coco, counts, pipeline),
    ]


def _check_unusable(
    source: DatasetSource, coco: AnnotationColumns, counts: MaskCounts, pipeline: Any
) -> list[Finding]:
    missing = counts.total - counts.usable
    if not missing:
        return []
    if source.split != 'train':
        fate = 'they are scored as boxes only'
    elif any(_values(pipeline, 'recompute_bbox')):
        fate = (
            'RandomCrop leaves them out, since it makes boxes from masks: set recompute_bbox=False '
            'so that their boxes are learned'
        )
    else:
        fate = 'their boxes are learned, their masks are not'
    severity = 'warning'
    if source.split == 'train' and not source.by_name:
        severity = 'error'
        fate = (
            f'mmdet fails on them, or leaves out their boxes: set `{source.key}.type` to '
            "'ClassNameCocoDataset', which learns their boxes"
        )
    images = f' ({counts.images_without} images have none)' if counts.images_without else ''
    return [
        Finding(
            severity,
            source.split,
            f"{missing} of {counts.total} objects of '{coco.path}' have no mask that can be "
            f'used{images}{_listed(coco, counts, _unusable(counts))}; {fate}',
        )
    ]


def _check_odd(source: DatasetSource, coco: AnnotationColumns, counts: MaskCounts) -> list[Finding]:
    findings = []
    unusable = _unusable(counts)
    odd = [problem for problem in counts.problems if problem not in (*unusable, HOLES)]
    if odd:
        total = sum(counts.problems[problem] for problem in odd)
        findings.append(
            Finding(
                'warning',
                source.split,
                f"{total} of {counts.usable} masks of '{coco.path}' are odd"
                f'{_listed(coco, counts, odd)}; they are used as they are: correct the file if '
                'they are wrong',
            )
        )
    if HOLES in counts.problems:
        findings.append(
            Finding(
                'warning',
                source.split,
                f"{counts.problems[HOLES]} masks of '{coco.path}' have polygons inside of polygons "
                f'({_examples(coco, counts, HOLES)}), which count as part of the object: polygons '
                'of COCO have no holes; write masks with holes as run lengths',
            )
        )
    return findings


def _check_rectangles(
    source: DatasetSource, coco: AnnotationColumns, counts: MaskCounts
) -> list[Finding]:
    share = counts.rectangles / counts.usable
    if share < _SOME_RECTANGLES:
        return []
    return [
        Finding(
            'warning' if share > _MOST_RECTANGLES else 'info',
            source.split,
            f"{counts.rectangles} of {counts.usable} masks of '{coco.path}' are the four corners "
            'of a box; they teach nothing that the boxes do not: draw outlines, or use a config '
            'without masks',
        )
    ]


def _check_run_lengths(
    source: DatasetSource, coco: AnnotationColumns, counts: MaskCounts, pipeline: Any
) -> list[Finding]:
    if not counts.run_lengths or all(_values(pipeline, 'poly2mask')):
        return []
    return [
        Finding(
            'warning',
            source.split,
            f"{counts.run_lengths} masks of '{coco.path}' are run lengths, and poly2mask=False in "
            f'`{source.key}.pipeline` leaves out their objects; remove poly2mask',
        )
    ]


def _unusable(counts: MaskCounts) -> list[str]:
    """Returns the problems that leave no mask."""
    return [problem for problem in counts.problems if problem in UNUSABLE]


def _listed(coco: AnnotationColumns, counts: MaskCounts, problems: Sequence[str]) -> str:
    parts = (
        f'{counts.problems[problem]} {problem} ({_examples(coco, counts, problem)})'
        for problem in problems
    )
    return f': {", ".join(parts)}' if problems else ''


def _examples(coco: AnnotationColumns, counts: MaskCounts, problem: str) -> str:
    return ', '.join(
        f'id {coco.ids[row]!r} on {coco.file_names[int(coco.image_index[row])]!r}'
        for row in counts.examples[problem]
    )


def _values(node: Any, key: str) -> Iterator[Any]:
    """Yields the values of a key anywhere in a config."""
    if isinstance(node, Mapping):
        if key in node:
            yield node[key]
        node = node.values()
    elif not isinstance(node, (list, tuple)):
        return
    for part in node:
        yield from _values(part, key)
