"""Checks the data that a config names, before training and testing.

mmdet silently accepts many mistakes (unknown class names, a different order of classes, boxes that
it cannot use), which show after hours as an average precision of zero. This check reads configs and
annotation files only: it opens no images and builds no datasets. `full_check` opens the images too.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence

from mmengine import Config

from ..config.tiles import tile_of, trains_on_tiles
from ..errors import InputError
from ..large_image import MAX_PER_IMG
from ..wording import name_some
from .annotation_columns import AnnotationColumns
from .annotation_file import read_annotations
from .box_counts import count_boxes
from .class_names import AUTO, class_heads
from .coco_checks import (
    check_boxes,
    check_capacity,
    check_class_names,
    check_class_order,
    check_fields,
    check_ids,
    check_images,
    check_predicted,
    check_similar_names,
)
from .dataset_source import (
    DatasetSource,
    dataset_class,
    is_coco_format,
    is_remote,
    iter_dataset_configs,
    read_source,
)
from .evaluators import (
    check_ann_files,
    metrics_fill_fields,
    only_writes_predictions,
    scores_masks,
)
from .findings import Finding
from .mask_checks import check_mask_loading, check_masks
from .masks_used import masks_loaded, uses_masks
from .shapes_dataset import ShapesDataset, ensure_shapes, make_sample_data
from .splits import SPLITS


def check_config(cfg: Config, splits: Sequence[str] = SPLITS) -> list[Finding]:
    """Checks the datasets of a config against their files, the model and the evaluators.

    The sample dataset of the config is drawn first if it does not exist yet.

    Args:
        cfg: The config of a run.
        splits: Which of ``'train'``, ``'val'`` and ``'test'`` to check. A split without a
            dataloader is skipped.

    Returns:
        The findings in the order of the splits; none for a sound config.

    Raises:
        ValueError: If ``splits`` has an unknown name.
    """
    unknown = [split for split in splits if split not in SPLITS]
    if unknown:
        raise ValueError(f'splits must be among {SPLITS}, but has {unknown}')
    findings, _ = check_files(cfg, splits)
    return findings


def check_files(
    cfg: Config, splits: Sequence[str]
) -> tuple[list[Finding], dict[DatasetSource, AnnotationColumns]]:
    """Does what :func:`check_config` does; also returns the annotation files that can be read."""
    findings: list[Finding] = []
    sources: list[DatasetSource] = []
    try:
        make_sample_data(cfg)
    except (InputError, OSError) as error:
        findings.append(Finding('error', splits[0], str(error)))
    for split in splits:
        found = list(_find_sources(cfg, split, findings))
        findings += check_ann_files(cfg, split, found)
        sources += found
    findings += _check_classes(cfg, sources)
    findings += check_mask_loading(cfg, sources)
    files = _check_annotations(cfg, sources, findings)
    return sorted(findings, key=lambda finding: splits.index(finding.split)), files


def _find_sources(cfg: Config, split: str, findings: list[Finding]) -> Iterator[DatasetSource]:
    """Yields the COCO-format datasets of a split; adds to ``findings`` why others are left out."""
    for key, config in iter_dataset_configs(cfg, split):
        try:
            cls = dataset_class(key, config)
            if not is_coco_format(cls):
                findings.append(
                    Finding(
                        'info',
                        split,
                        f'`{key}` is not checked, because {cls.__name__} does not read COCO files '
                        'as CocoDataset does',
                    )
                )
                continue
            if issubclass(cls, ShapesDataset):
                ensure_shapes(config.get('data_root'), config.get('generate'))
            yield read_source(split, key, config)
        except (InputError, OSError) as error:
            findings.append(Finding('error', split, str(error)))


def _check_classes(cfg: Config, sources: Sequence[DatasetSource]) -> list[Finding]:
    """Checks that the datasets have the same classes, as many as the model."""
    findings = check_similar_names(sources[0]) if sources else []
    for source in sources[1:]:
        first = sources[0]
        if source.classes != first.classes:
            findings.append(
                Finding(
                    'error',
                    source.split,
                    f'{source.classes_origin} gives the classes {name_some(source.classes)}, but '
                    f'{first.classes_origin} gives {name_some(first.classes)}; use the same '
                    'classes in the same order for all datasets',
                )
            )
    for source in sources[:1]:
        count = len(source.classes)
        for key, head in class_heads(cfg):
            if head.get('num_classes', AUTO) not in (AUTO, count):
                findings.append(
                    Finding(
                        'error',
                        source.split,
                        f'`{key}.num_classes` is {head["num_classes"]}, but '
                        f'{source.classes_origin} gives {count} classes; set '
                        f'`{key}.num_classes={count}`',
                    )
                )
    return findings


def _check_annotations(
    cfg: Config, sources: Sequence[DatasetSource], findings: list[Finding]
) -> dict[DatasetSource, AnnotationColumns]:
    """Checks the datasets against their annotation files and images."""
    list_folder = functools.cache(_list_folder)
    files: dict[DatasetSource, AnnotationColumns] = {}
    for source in sources:
        pipeline = source.config.get('pipeline') or ()
        masks_scored = source.split != 'train' and scores_masks(cfg, source.split)
        with_masks = masks_scored or uses_masks(pipeline)
        coco = _read_annotations(source, findings, with_masks)
        if coco is None:
            continue
        files[source] = coco
        counts = count_boxes(coco, source.classes, source.min_size)
        scored = source.split != 'test' or not only_writes_predictions(cfg, source.split)
        findings += check_class_names(source, coco)
        findings += check_predicted(source, coco)
        if scored:
            fills = metrics_fill_fields(cfg, source.split)
            findings += check_fields(source, coco, fills)
        wrong_ids = check_ids(source, coco)
        # Annotations whose ids do not match would all be reported again.
        findings += wrong_ids or check_boxes(source, coco, counts, scored)
        masks_needed = masks_loaded(pipeline) if source.split == 'train' else masks_scored
        if masks_needed and scored and not wrong_ids:
            findings += check_masks(source, coco)
        findings += check_capacity(source, coco, counts, _detection_limits(cfg, source.split))
        findings += check_images(source, coco, list_folder)
    findings += check_class_order(files)
    return files


def _detection_limits(cfg: Config, split: str) -> dict[str, int]:
    """Returns the maximum numbers of detections per image, by the keys that set them."""
    model = cfg.get('model') or {}
    tile = tile_of(model)
    if split != 'train' and tile is not None:  # the other limits are those of a tile
        limits = {'model.tile.max_per_img': tile.get('max_per_img', MAX_PER_IMG)}
    elif split == 'train' and trains_on_tiles(cfg):
        limits = {}
    else:
        limits = {'model.num_queries': model.get('num_queries')}
        if split != 'train':
            for key in ('max_per_img', 'num_queries'):
                limits[f'model.test_cfg.{key}'] = (model.get('test_cfg') or {}).get(key)
    return {key: limit for key, limit in limits.items() if isinstance(limit, int)}


def _read_annotations(
    source: DatasetSource, findings: list[Finding], with_masks: bool
) -> AnnotationColumns | None:
    """Returns the annotation file; adds to ``findings`` why it cannot be read."""
    key = source.key
    if not source.ann_file:
        findings.append(
            Finding(
                'error',
                source.split,
                f'`{key}.ann_file` is not set; set it to a COCO annotation file',
            )
        )
    elif is_remote(source.ann_file, source.config):
        findings.append(
            Finding(
                'info',
                source.split,
                f"'{source.ann_file}' is not on the local disk, so `{key}` is not checked",
            )
        )
    else:
        try:
            return read_annotations(os.path.abspath(source.ann_file), segmentations=with_masks)
        except FileNotFoundError as error:
            findings.append(
                Finding(
                    'error',
                    source.split,
                    f'{error}; set `{key}.data_root` (now {source.config.get("data_root")!r}) and '
                    f'`{key}.ann_file` (now {source.config.get("ann_file")!r}) so that, joined, '
                    'they give its path',
                )
            )
        except (InputError, OSError) as error:
            findings.append(Finding('error', source.split, str(error)))
    return None


def _list_folder(path: str) -> frozenset[str] | None:
    """Returns the names in a folder, or ``None`` if it cannot be listed."""
    try:
        with os.scandir(path) as entries:
            return frozenset(entry.name for entry in entries)
    except (OSError, ValueError):  # ValueError: names that no file can have
        return None
