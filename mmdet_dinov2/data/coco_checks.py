"""The single checks of a COCO annotation file. They return findings and raise nothing."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..wording import name_some
from .annotation_columns import AnnotationColumns
from .box_counts import BoxCounts, look_like_corners, looks_normalised
from .coco_file import leaves_folder, names_outside
from .dataset_source import DatasetSource, is_remote
from .findings import Finding
from .predicted_boxes import predicted_count
from .similar_files import suggest_file

# COCO has 1.2 % crowd regions. With a larger fraction the check warns.
_MANY_CROWDS = 0.02


def check_class_names(source: DatasetSource, coco: AnnotationColumns) -> list[Finding]:
    """Checks that every class is exactly one category of the file."""
    findings = []
    missing = [name for name in source.classes if name not in coco.category_names]
    if missing:
        findings.append(
            _error(
                source,
                f'{source.classes_origin} lists {name_some(missing)}, which '
                f"'{coco.path}' does not have; its categories are "
                f'{name_some(coco.category_names)}{_suggestion(missing, coco.category_names)}; '
                f'set `{source.key}.metainfo.classes` to some of them',
            )
        )
    times = Counter(name for name in coco.category_names if name in source.classes)
    repeated = [name for name, count in times.items() if count > 1]
    if repeated:
        findings.append(
            _error(
                source,
                f"'{coco.path}' has more than one category named {name_some(repeated)}, so there "
                'would be more labels than classes; merge these categories in the file',
            )
        )
    return findings


def _suggestion(names: Sequence[str], known: Sequence[str]) -> str:
    """Returns `` (did you mean ...?)`` for the names that have a close match, ignoring case."""
    folded = {_fold(name): name for name in known}
    pairs = []
    for name in names[:10]:
        match = difflib.get_close_matches(_fold(name), folded, n=1)
        if match:
            pairs.append(f'{folded[match[0]]!r} for {name!r}')
    return f' (did you mean {", ".join(pairs)}?)' if pairs else ''


def _fold(name: str) -> str:
    return str(name).strip().lower().replace('_', ' ').replace('-', ' ')


def check_predicted(source: DatasetSource, coco: AnnotationColumns) -> list[Finding]:
    """Counts the boxes that a detector predicted, in a file that says so."""
    count = predicted_count(coco.path)
    if not count:
        return []
    return [
        Finding(
            'info',
            source.split,
            f"{count} of the {coco.num_annotations} boxes of '{coco.path}' were predicted by a "
            'detector and not corrected since',
        )
    ]


def check_similar_names(source: DatasetSource) -> list[Finding]:
    """Checks that no classes differ in case or blanks only, which are mostly slips of typing."""
    alike: dict[str, list[str]] = {}
    for name in source.classes:
        alike.setdefault(''.join(str(name).split()).casefold(), []).append(name)
    groups = [names for names in alike.values() if len(names) > 1]
    if not groups:
        return []
    listed = '; '.join(map(name_some, groups))
    return [
        Finding(
            'warning',
            source.split,
            f'classes of `{source.key}` differ in upper and lower case or in blanks only '
            f'({listed}), and are learned as different ones; merge them if they are the same',
        )
    ]


def check_ids(source: DatasetSource, coco: AnnotationColumns) -> list[Finding]:
    """Checks that ids are not numbers in one place and text in another."""
    findings = []
    for key, section, ids, unlisted, index in (
        ('image_id', 'images', coco.image_ids, coco.unlisted_images, coco.image_index),
        (
            'category_id',
            'categories',
            [category['id'] for category in coco.categories],
            coco.unlisted_categories,
            coco.category_index,
        ),
    ):
        if not unlisted:
            continue
        texts = {str(known): known for known in ids}
        # In the order in which the annotations have them.
        wrong = [place for place, value in enumerate(unlisted) if str(value) in texts]
        if wrong:
            first = unlisted[wrong[0]]
            known = texts[str(first)]
            count = np.isin(index, -1 - np.array(wrong)).sum()
            findings.append(
                _error(
                    source,
                    f"{count} annotations of '{coco.path}' have the {key} {first!r} as "
                    f"{_type_name(first)}, but '{section}' has the id {known!r} as "
                    f'{_type_name(known)}; write both as numbers, or both as text',
                )
            )
    return findings


def _type_name(value: object) -> str:
    return 'text' if isinstance(value, str) else 'a number'


def check_class_order(sources: Mapping[DatasetSource, AnnotationColumns]) -> list[Finding]:
    """Checks that the classes are in the order of the files, where that matters.

    mmdet's ``CocoDataset`` numbers labels in the order of the categories in the file, but names
    them by ``metainfo.classes``. With a different order a model trains well and shows wrong names;
    with files of different orders one label has two meanings. ``ClassNameCocoDataset`` goes by the
    names.
    """
    orders = {
        source: _order_in_file(source, coco)
        for source, coco in sources.items()
        if set(source.classes) <= set(coco.category_names)
    }
    files_agree = len(set(orders.values())) == 1
    findings = []
    for source, order in orders.items():
        if order == source.classes or len(order) != len(source.classes):
            continue
        if source.by_name:
            findings.append(
                Finding(
                    'info',
                    source.split,
                    f"'{sources[source].path}' lists the categories in a different order than "
                    f'{source.classes_origin}; labels follow the names',
                )
            )
            continue
        label = next(i for i, name in enumerate(order) if name != source.classes[i])
        if files_agree:
            remedy = f'list the classes in the order of the file: {order!r}'
        else:
            remedy = (
                'sort the categories of this file, since the files of this config have different '
                f'orders, in the order of the classes: {source.classes!r}'
            )
        findings.append(
            _error(
                source,
                f'mmdet numbers labels in the order of the categories in the file, so boxes of '
                f"{order[label]!r} in '{sources[source].path}' get label {label}, which "
                f'{source.classes_origin} calls {source.classes[label]!r}; set '
                f"`{source.key}.type` to 'ClassNameCocoDataset', which goes by the names, or "
                f'{remedy}',
            )
        )
    return findings


def _order_in_file(source: DatasetSource, coco: AnnotationColumns) -> tuple[str, ...]:
    return tuple(name for name in coco.category_names if name in source.classes)


def check_boxes(
    source: DatasetSource, coco: AnnotationColumns, counts: BoxCounts, scored: bool = True
) -> list[Finding]:
    """Checks that there are boxes to train on or to score, and names those that are left out.

    Args:
        source: The dataset.
        coco: Its annotation file.
        counts: The counts of its boxes.
        scored: Whether the split needs boxes: it is trained on or scored.
    """
    if not coco.annotated:
        return []
    path, total = coco.path, coco.num_annotations
    if looks_normalised(coco):
        return [
            _error(
                source,
                f"all boxes of '{path}' lie between 0 and 1, as fractions of the image, but COCO "
                'has pixels; multiply x and width by the width of the image, y and height by its '
                'height',
            )
        ]
    findings = []
    if look_like_corners(coco):
        findings.append(
            _error(
                source,
                f"the boxes of '{path}' look like x1, y1, x2, y2: as x, y, width, height most "
                'would extend beyond their image, as corners none; write x, y, width, height',
            )
        )
    if not counts.usable:
        findings.append(
            Finding(
                'error' if scored else 'warning',
                source.split,
                f"'{path}' has no usable box for the classes {name_some(source.classes)} "
                f'among its {total} annotations{_reasons(counts)}; correct the file or '
                f'`{source.key}`',
            )
        )
    if counts.other_category:
        names = sorted(counts.other_category)
        findings.append(
            Finding(
                'warning',
                source.split,
                f"{counts.other_category.total()} of {total} boxes of '{path}' are ignored, "
                f'because their categories ({name_some(names)}) are not classes of `{source.key}`; '
                'add these to the classes if they are to be detected',
            )
        )
    if counts.crowd > _MANY_CROWDS * total:
        fate = (
            'trained on' if source.split == 'train' else 'scored (detections on them do not count)'
        )
        findings.append(
            Finding(
                'warning',
                source.split,
                f"{counts.crowd} of {total} annotations of '{path}' are crowd regions (iscrowd=1), "
                f'which are not {fate}; some tools mark masks drawn with a brush that way: set '
                'iscrowd to 0 where each is one object',
            )
        )
    if counts.dropped:
        dropped = ', '.join(
            f'{count} {reason} ({_list_examples(counts, reason)})'
            for reason, count in counts.dropped.items()
        )
        fate = (
            'are left out of training'
            if source.split == 'train'
            else 'are scored, although training would leave them out'
        )
        findings.append(
            Finding(
                'warning',
                source.split,
                f"{counts.dropped.total()} of {total} boxes of '{path}' {fate}: "
                f'{dropped}; correct the file if they matter',
            )
        )
    return findings


def _list_examples(counts: BoxCounts, reason: str) -> str:
    examples = counts.examples[reason]
    more = ', ...' if counts.dropped[reason] > len(examples) else ''
    return ', '.join(examples) + more


def _reasons(counts: BoxCounts) -> str:
    parts = [f'{count} {reason}' for reason, count in counts.dropped.items()]
    if counts.other_category:
        parts.append(f'{counts.other_category.total()} of other categories')
    if counts.crowd:
        parts.append(f'{counts.crowd} on crowd regions')
    if counts.filtered:
        parts.append(f'{counts.filtered} on images below filter_cfg.min_size')
    return f' ({", ".join(parts)})' if parts else ''


def check_fields(
    source: DatasetSource, coco: AnnotationColumns, metric_fills: bool
) -> list[Finding]:
    """Checks the fields that may be missing only where they are filled in.

    Args:
        source: The dataset.
        coco: Its annotation file.
        metric_fills: Whether the metrics of the split fill in missing fields.
    """
    if not coco.annotated:
        return [
            _error(
                source,
                f"'{coco.path}' has no 'annotations', so it cannot be used to train or score; set "
                f'`{source.key}.ann_file` to an annotated file, or format_only=True in the test '
                'evaluator to write predictions only',
            )
        ]
    findings = []
    for key, others in (('bbox', 'segmentation'), ('file_name', 'coco_url')):
        if coco.derived[key]:
            what = f"{coco.derived[key]} entries of '{coco.path}' lack '{key}'"
            if source.by_name and (metric_fills or source.split == 'train'):
                message = f"{what}, which comes from their '{others}'"
                findings.append(Finding('info', source.split, message))
            else:
                findings.append(
                    _error(
                        source,
                        f'{what}, which mmdet needs; add it, or use ClassNameCocoDataset and '
                        f"ClassNameCocoMetric, which take it from '{others}'",
                    )
                )
    for key, value, given in (
        ('area', 'the area of the box', coco.has_area),
        ('iscrowd', '0', coco.has_iscrowd),
    ):
        missing = len(given) - int(given.sum())
        if not missing:
            continue
        first = coco.ids[int(given.argmin())]
        what = f"'{coco.path}' lacks '{key}' in {missing} annotations (first id {first!r})"
        fills = metric_fills or source.split == 'train'
        if fills and (source.by_name or key == 'iscrowd'):
            findings.append(Finding('info', source.split, f'{what}; {value} is used instead'))
        else:
            findings.append(
                _error(
                    source,
                    f'{what}, which mmdet needs; add it, or use ClassNameCocoDataset and '
                    'ClassNameCocoMetric, which fill it in',
                )
            )
    return findings


def check_capacity(
    source: DatasetSource, coco: AnnotationColumns, counts: BoxCounts, limits: Mapping[str, int]
) -> list[Finding]:
    """Checks that no image has more boxes than the model can detect.

    Args:
        source: The dataset.
        coco: Its annotation file.
        counts: The counts of its boxes.
        limits: Maximum numbers of detections per image, by the config keys that set them.
    """
    findings = []
    for key, limit in limits.items():
        crowded = int((counts.per_image > limit).sum())
        if not crowded:
            continue
        name = coco.file_names[counts.fullest]
        findings.append(
            Finding(
                'warning',
                source.split,
                f"{crowded} images of '{coco.path}' have more boxes than the `{key}`={limit} "
                f'that can be detected, up to {counts.per_image.max()} ({name!r}); raise it',
            )
        )
    return findings


def check_images(
    source: DatasetSource,
    coco: AnnotationColumns,
    list_folder: Callable[[str], frozenset[str] | None],
) -> list[Finding]:
    """Checks that the image files exist inside their folder.

    Args:
        source: The dataset.
        coco: Its annotation file.
        list_folder: Returns the names in a folder, or ``None`` if it cannot be listed.
    """
    root = source.image_folder
    if root is None:
        return [
            _error(
                source,
                f"`{source.key}.data_prefix` lacks 'img', the folder of the images; set it, for "
                "example data_prefix=dict(img='train/')",
            )
        ]
    names = list(coco.file_names)
    findings = []
    outside = names_outside(root, coco.file_names)
    if outside:
        findings.append(
            _error(
                source,
                f"{len(outside)} images of '{coco.path}' are not inside the image folder "
                f"'{root}' ({name_some(outside, limit=3)}); correct the file names, or set "
                f'`{source.key}.data_prefix.img` to the folder that holds all images',
            )
        )
    if len(set(names)) < len(names):
        repeated = [name for name, count in Counter(names).items() if count > 1]
        findings.append(
            Finding(
                'warning',
                source.split,
                f"'{coco.path}' lists {len(repeated)} image files more than once "
                f'({name_some(repeated, limit=3)}); merge their entries',
            )
        )
    if is_remote(root, source.config):
        findings.append(
            Finding(
                'info',
                source.split,
                f"'{root}' is not on the local disk, so its images are not checked",
            )
        )
        return findings
    remedy = (
        f'set `{source.key}.data_root` (now {source.config.get("data_root")!r}) and '
        f'`{source.key}.data_prefix.img` (now {source.config["data_prefix"]["img"]!r}) so '
        f"that, joined with the file names in '{coco.path}', they give the paths of the images"
    )
    if list_folder(root or '.') is None:
        findings.append(
            _error(source, f"the image folder '{root}' does not exist or cannot be read; {remedy}")
        )
        return findings
    missing = []
    listings: dict[str, frozenset[str] | tuple[()]] = {}
    inside = [name for name in names if not leaves_folder(root, name)] if outside else names
    for name in inside:
        # Faster than os.path.split, whose special cases do not occur here.
        folder, _, file = name.rpartition('/')
        if folder not in listings:
            listings[folder] = list_folder(os.path.join(root, folder) or '.') or ()
        if file not in listings[folder]:
            missing.append(name)
    if missing:
        beside = list_folder(os.path.join(root, missing[0].rpartition('/')[0]) or '.') or ()
        hint = suggest_file(missing[0], sorted(beside))
        findings.append(
            _error(
                source,
                f"{len(missing)} of {coco.num_images} images are missing in '{root}' "
                f'({name_some(missing, limit=3)}{f"; of the first, {hint}" if hint else ""}); '
                f'{remedy}',
            )
        )
    return findings


def _error(source: DatasetSource, message: str) -> Finding:
    return Finding('error', source.split, message)
