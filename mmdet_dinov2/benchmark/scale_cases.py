"""Measurements of large datasets for processes of their own: arguments and results are JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet.evaluation import CocoMetric
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from torch.utils.data import BatchSampler

from ..data.annotation_file import read_annotations
from ..data.preflight import check_config
from ..data.seeded import StepBatchSampler
from ..evaluation import ClassNameCocoMetric
from ..files import write_checkpoint
from .timing import measure


def check(config: str) -> dict:
    """Times the check of the annotations of a config, and counts its findings.

    Returns:
        ``seconds`` and the number of ``findings``.
    """
    cfg = Config.fromfile(config)
    findings: list = []
    seconds = measure(lambda: findings.extend(check_config(cfg, ('train', 'val'))), 'cpu')
    return dict(seconds=seconds, findings=len(findings))


def epoch_order(num_images: int, batch_size: int, seed: int) -> dict:
    """Times the order of an epoch, of this project and of mmdet.

    Returns:
        ``ours`` and ``mmdet``: seconds of the indices of all batches; ``middle``: seconds to the
        first batch of the second half of an epoch, of this project.
    """
    sampler = DefaultSampler(range(num_images), shuffle=True, seed=seed)
    ours = StepBatchSampler(sampler, batch_size, seed=seed)
    theirs = BatchSampler(sampler, batch_size, drop_last=False)
    seconds = {
        name: measure(lambda batches=batches: _exhaust(batches), 'cpu')
        for name, batches in (('ours', ours), ('mmdet', theirs))
    }
    ours.start(0, len(ours) // 2)
    return dict(seconds, middle=measure(lambda: next(iter(ours)), 'cpu'))


def _exhaust(batches) -> None:
    for _ in batches:
        pass


def move_to_middle(checkpoint: str, num_images: int, batch_size: int, interval: int) -> dict:
    """Changes a checkpoint of the first epoch into one of the middle of it.

    Only the step changes, which decides what a run that resumes from it has to skip.

    Returns:
        ``step``: the step, a multiple of ``interval``.
    """
    state = torch.load(checkpoint, weights_only=True)
    step = num_images // batch_size // 2 // interval * interval
    state['meta']['iter'] = step
    write_checkpoint(state, checkpoint)
    return dict(step=step)


def scoring(
    ann_file: str, classes: Sequence[str], per_image: int, peer: bool, seed: int, folder: str = ''
) -> dict:
    """Times the scoring of detections that were made up.

    Args:
        ann_file: Annotation file.
        classes: Names of its classes.
        per_image: Number of detections of each image.
        peer: Whether mmdet's metric scores them.
        seed: Seed of the detections.
        folder: Folder for the tables and pictures of the evaluation; '' makes none.

    Returns:
        ``seconds`` from the detections of all images to the scores, and ``ap``.
    """
    metric: Any
    if peer:
        metric = CocoMetric(ann_file)
    else:
        metric = ClassNameCocoMetric(ann_file, report_dir=folder)
    metric.dataset_meta = dict(classes=tuple(classes))
    samples = _made_up_detections(ann_file, len(classes), per_image, seed)
    metric.process({}, samples)
    found: dict = {}
    seconds = measure(lambda: found.update(metric.evaluate(len(samples))), 'cpu')
    return dict(seconds=seconds, ap=float(found['coco/bbox_mAP']))


def _made_up_detections(ann_file: str, num_classes: int, per_image: int, seed: int) -> list[dict]:
    """Returns data samples with boxes near the true ones, and others, with scores as of a detector.

    Most of the scores are low, as for a detector that returns a fixed number of boxes.
    """
    columns, rng = read_annotations(ann_file), np.random.default_rng(seed)
    samples = []
    for index in range(columns.num_images):
        width, height = columns.size(index)
        corners = rng.uniform(size=(per_image, 2)) * [width, height]
        boxes = np.column_stack([corners, rng.uniform(5, 200, (per_image, 2))])
        labels = rng.integers(0, num_classes, per_image)
        scores = rng.beta(0.5, 8, per_image)
        true = columns.annotations_of(index)[:per_image]
        near = slice(0, len(true))
        boxes[near] = columns.boxes[true] + rng.normal(0, 3, (len(true), 4))
        boxes[:, 2:] = np.maximum(boxes[:, 2:], 1)
        labels[near] = columns.category_index[true]
        scores[near] = rng.beta(3, 2, len(true))
        boxes[:, 2:] += boxes[:, :2]
        samples.append(
            dict(
                img_id=columns.image_ids[index],
                ori_shape=(height, width),
                pred_instances=dict(
                    bboxes=torch.tensor(boxes, dtype=torch.float32),
                    labels=torch.tensor(labels),
                    scores=torch.tensor(scores, dtype=torch.float32),
                ),
            )
        )
    return samples
