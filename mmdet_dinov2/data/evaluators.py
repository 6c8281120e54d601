"""The evaluators that a config names, and the annotation files they score against."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine import Config

from ..errors import InputError
from .dataset_source import (
    DatasetSource,
    dataset_class,
    is_coco_format,
    iter_dataset_configs,
    read_source,
)
from .findings import Finding


def iter_metrics(cfg: Config, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ``(key, config)`` of every metric of a split."""
    key = f'{split}_evaluator'
    evaluator = cfg.get(key)
    if isinstance(evaluator, dict) and 'metrics' in evaluator:
        key, evaluator = f'{key}.metrics', evaluator['metrics']
    if isinstance(evaluator, dict):
        yield key, evaluator
    elif isinstance(evaluator, (list, tuple)):
        for index, metric in enumerate(evaluator):
            if isinstance(metric, dict):
                yield f'{key}.{index}', metric


def only_writes_predictions(cfg: Config, split: str) -> bool:
    """Returns whether all metrics of a split only write predictions, without annotations."""
    metrics = [metric for _, metric in iter_metrics(cfg, split)]
    return bool(metrics) and all(metric.get('format_only') for metric in metrics)


def scores_masks(cfg: Config, split: str) -> bool:
    """Returns whether a COCO metric of a split scores masks."""
    kinds = (metric.get('metric', ()) for _, metric in iter_metrics(cfg, split))
    return any('segm' in ([kind] if isinstance(kind, str) else kind) for kind in kinds)


def metrics_fill_fields(cfg: Config, split: str) -> bool:
    """Returns whether all COCO metrics of a split fill in ``area`` and ``iscrowd`` where missing.

    Metrics that do so have an attribute ``fills_missing_fields``.
    """
    return all(
        getattr(_metric_class(metric), 'fills_missing_fields', False)
        for _, metric in iter_metrics(cfg, split)
        if _is_coco_metric(metric)
    )


def check_ann_files(cfg: Config, split: str, sources: Sequence[DatasetSource]) -> list[Finding]:
    """Checks that the metrics of a split score against the annotation file of its dataset.

    Args:
        cfg: The config of a run.
        split: ``'val'`` or ``'test'``; other splits have no evaluator.
        sources: The datasets of the split.
    """
    findings = []
    known = {os.path.realpath(source.ann_file) for source in sources if source.ann_file}
    for key, metric in iter_metrics(cfg, split):
        ann_file = metric.get('ann_file')
        if not ann_file or not known or os.path.realpath(ann_file) in known:
            continue
        files = ' and '.join(f"'{source.ann_file}'" for source in sources)
        findings.append(
            Finding(
                'error',
                split,
                f"`{key}.ann_file` is '{ann_file}', but `{sources[0].key}` reads {files}, so the "
                'scores would compare different images or labels; set both to the same file, or '
                'remove the one of the evaluator',
            )
        )
    return findings


def fill_evaluator_ann_file(cfg: Config) -> None:
    """Gives every ``CocoMetric`` without ``ann_file`` the annotation file of its dataloader.

    Changes ``val_evaluator`` and ``test_evaluator`` of ``cfg`` in place. A metric stays as it is if
    its dataloader does not read exactly one COCO-format dataset; it then scores against the
    annotations that come with the samples.
    """
    for split in ('val', 'test'):
        ann_file = _single_ann_file(cfg, split)
        if ann_file is None or cfg.get(f'{split}_evaluator') is None:
            continue
        # `test_evaluator = val_evaluator` makes them one object; they may need different files.
        cfg[f'{split}_evaluator'] = copy.deepcopy(cfg[f'{split}_evaluator'])
        for _, metric in iter_metrics(cfg, split):
            if not metric.get('ann_file') and _is_coco_metric(metric):
                metric['ann_file'] = ann_file


def _single_ann_file(cfg: Config, split: str) -> str | None:
    configs = list(iter_dataset_configs(cfg, split))
    if len(configs) != 1:
        return None
    key, config = configs[0]
    try:
        if is_coco_format(dataset_class(key, config)):
            return read_source(split, key, config).ann_file or None
    except InputError:
        # The dataset check, or mmdet when it builds the dataset, reports what is wrong.
        pass
    return None


def _is_coco_metric(metric: Mapping[str, Any]) -> bool:
    cls = _metric_class(metric)
    return isinstance(cls, type) and issubclass(cls, CocoMetric)


def _metric_class(metric: Mapping[str, Any]) -> Any:
    name = metric.get('type')
    return METRICS.get(name) if isinstance(name, str) else name
