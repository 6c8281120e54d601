"""The single checks of a COCO-format dataset. Each returns its findings and raises nothing."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from ..errors import InputError
from .coco_file import BoxCounts, CocoFile, count_boxes
from .dataset_source import DatasetSource, is_remote
from .findings import Finding, name_some


def check_class_names(source: DatasetSource, coco: CocoFile) -> list[Finding]:
    """Check that every class is a category of the file, once."""
    findings = []
    missing = [name for name in source.classes if name not in coco.category_names]
    if missing:
        findings.append(
            _error(
                source,
                f'{source.classes_origin} lists {name_some(missing)}, not among the '
                f"categories of '{coco.path}', which has {name_some(coco.category_names)}"
                f'{_suggestion(missing, coco.category_names)}; set '
                f'`{source.key}.metainfo.classes` to names of the file.',
            )
        )
    times = Counter(name for name in coco.category_names if name in source.classes)
    repeated = [name for name, count in times.items() if count > 1]
    if repeated:
        findings.append(
            _error(
                source,
                f"'{coco.path}' has more than one category named {name_some(repeated)}, which "
                'gives more labels than classes; merge the categories of the same name in the '
                'file.',
            )
        )
    return findings


def _suggestion(names: Sequence[str], known: Sequence[str]) -> str:
    """Return `` (did you mean ...?)`` for the names with a close match, ignoring case."""
    folded = {_fold(name): name for name in known}
    pairs = []
    for name in names[:10]:
        match = difflib.get_close_matches(_fold(name), folded, n=1)
        if match:
            pairs.append(f'{folded[match[0]]!r} for {name!r}')
    return f' (did you mean {", ".join(pairs)}?)' if pairs else ''


def _fold(name: str) -> str:
    return str(name).strip().lower().replace('_', ' ').replace('-', ' ')


def check_class_order(sources: Mapping[DatasetSource, CocoFile]) -> list[Finding]:
    """Check that the classes stand in the order of the files.

    mmdet numbers the labels by the order of the categories in the annotation file, but names them
    by ``metainfo.classes``: a different order trains well and shows wrong names, and files of
    different order give one label two meanings.
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
        label = next(i for i, name in enumerate(order) if name != source.classes[i])
        if files_agree:
            remedy = f'list the classes in the order of the file: {order!r}'
        else:
            remedy = (
                f'the files of this config differ in their order, so sort the categories '
                f'of this one as in the classes: {source.classes!r}'
            )
        findings.append(
            _error(
                source,
                f'mmdet numbers labels in the order of the categories in the file, so boxes of '
                f"{order[label]!r} in '{sources[source].path}' get label {label}, which "
                f'{source.classes_origin} calls {source.classes[label]!r}; {remedy}.',
            )
        )
    return findings


def _order_in_file(source: DatasetSource, coco: CocoFile) -> tuple[str, ...]:
    return tuple(name for name in coco.category_names if name in source.classes)


def check_boxes(source: DatasetSource, coco: CocoFile) -> list[Finding]:
    """Check that there are boxes to train on, and report the ones that mmdet leaves out."""
    if coco.annotations is None:
        return []
    try:
        counts = count_boxes(coco, source.classes, source.min_size)
    except InputError as error:
        return [_error(source, str(error))]
    total = len(coco.annotations)
    findings = []
    if not counts.usable:
        findings.append(
            Finding(
                'error' if source.split == 'train' else 'warning',
                source.split,
                f"'{coco.path}' has no usable box for the classes {name_some(source.classes)} "
                f'among its {total} annotations{_reasons(counts)}; correct the file or '
                f'`{source.key}`.',
            )
        )
    if counts.other_category:
        names = sorted(counts.other_category)
        findings.append(
            Finding(
                'warning',
                source.split,
                f"mmdet ignores {counts.other_category.total()} of {total} boxes of '{coco.path}' "
                f'because their categories ({name_some(names)}) are not classes of `{source.key}`; '
                'add the names to the classes if they are to be detected.',
            )
        )
    if counts.dropped:
        dropped = ', '.join(f'{count} {reason}' for reason, count in counts.dropped.items())
        findings.append(
            Finding(
                'warning',
                source.split,
                f'mmdet leaves out {counts.dropped.total()} of {total} boxes of '
                f"'{coco.path}': {dropped}; correct the file if they matter.",
            )
        )
    return findings


def _reasons(counts: BoxCounts) -> str:
    parts = [f'{count} {reason}' for reason, count in counts.dropped.items()]
    if counts.other_category:
        parts.append(f'{counts.other_category.total()} of other categories')
    if counts.crowd:
        parts.append(f'{counts.crowd} of crowds')
    if counts.filtered:
        parts.append(f'{counts.filtered} on images below filter_cfg.min_size')
    return f' ({", ".join(parts)})' if parts else ''


def check_scoring(source: DatasetSource, coco: CocoFile) -> list[Finding]:
    """Check what COCO's evaluation reads and the dataset does not."""
    if coco.annotations is None:
        return [
            _error(
                source,
                f"'{coco.path}' has no 'annotations', so nothing can be trained or scored with it; "
                f'use an annotated file as `{source.key}.ann_file`, or set format_only=True in the '
                'test evaluator to write predictions only.',
            )
        ]
    without = [entry['id'] for entry in coco.annotations if 'iscrowd' not in entry]
    if without and source.split != 'train':
        return [
            _error(
                source,
                f"'{coco.path}' lacks 'iscrowd' in {len(without)} annotations (first id "
                f'{without[0]}), which the evaluation reads; add "iscrowd": 0 to them.',
            )
        ]
    return []


def check_images(
    source: DatasetSource, coco: CocoFile, list_folder: Callable[[str], frozenset[str] | None]
) -> list[Finding]:
    """Check that the image files exist.

    Args:
        source: The dataset.
        coco: Its annotation file.
        list_folder: Returns the names in a folder, or ``None`` if there is no such folder.
    """
    root = source.image_folder
    if root is None:
        return [
            _error(
                source,
                f"`{source.key}.data_prefix` lacks 'img', the folder of the images; set it, for "
                "instance data_prefix=dict(img='train/').",
            )
        ]
    if is_remote(root, source.config):
        return [
            Finding(
                'info',
                source.split,
                f"'{root}' is not on the local disk, so its images are not checked.",
            )
        ]
    remedy = (
        f'set `{source.key}.data_root` (now {source.config.get("data_root")!r}) and '
        f'`{source.key}.data_prefix.img` (now {source.config["data_prefix"]["img"]!r}) so '
        f"that joined with the file names of '{coco.path}' they lead to the images"
    )
    if list_folder(root or '.') is None:
        return [
            _error(source, f"The image folder '{root}' does not exist or cannot be read; {remedy}.")
        ]
    missing = []
    for image in coco.images:
        # Split by hand, as the usual flat layout needs nothing of what os.path.split handles.
        folder, _, name = str(image['file_name']).rpartition('/')
        if name not in (list_folder(os.path.join(root, folder) or '.') or ()):
            missing.append(image['file_name'])
    if not missing:
        return []
    return [
        _error(
            source,
            f"{len(missing)} of {len(coco.images)} images are missing in '{root}' "
            f'({name_some(missing, limit=3)}); {remedy}.',
        )
    ]


def _error(source: DatasetSource, message: str) -> Finding:
    return Finding('error', source.split, message)
