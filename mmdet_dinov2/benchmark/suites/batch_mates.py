"""Compares the predictions of an image alone and beside a larger one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from mmdet.models.detectors import DINO
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment
from torch import nn

from ...config.files import find_config
from ..detectors import DetectorSpec, build_detector
from ..settings import Settings
from ..tables import BenchmarkReport
from ..workloads import Size, describe_sizes, random_batch
from .project_configs import QUICKSTART, TINY_OPTIONS


def batch_mates(report: BenchmarkReport, settings: Settings) -> None:
    """Measures how predictions change when a larger image is in the batch."""
    models = [
        (QUICKSTART, {}, [(120, 168), (168, 168)]),
        ('dino_dinov2_s_12ep', {}, [(350, 518), (640, 640)]),
    ]
    if settings.dry_run:
        models = [(QUICKSTART, TINY_OPTIONS, [(84, 70), (112, 126)])]
    table = report.table(
        'Predictions alone and beside a larger image, fp32',
        ('model', 'sizes', 'boxes', 'largest difference of boxes', 'of scores', 'limit'),
        [
            f'boxes: relative to the long side of the image; random weights, seed {settings.seed}',
            'mmdet: its stock DINO with the same pyramid',
        ],
    )
    for name, options, sizes in models:
        for stock in (False, True):
            spec = DetectorSpec(find_config(name), options, stock, seed=settings.seed)
            model = _eventful(build_detector(spec), settings.seed)
            boxes, scores, count = _differences(model, sizes, settings.seed)
            report.add(
                table,
                {
                    'model': f'{spec.name} {Path(spec.config).stem}',
                    'sizes': describe_sizes(sizes),
                    'boxes': str(count),
                    'largest difference of boxes': f'{boxes:.1e}',
                    'of scores': f'{scores:.1e}',
                    'limit': None if stock else '<= 1e-4',
                },
            )


def _eventful(model: DINO, seed: int) -> DINO:
    """Changes weights so that features, boxes and scores depend on the whole image.

    After initialisation, blocks are scaled by 1e-5, boxes are the proposals and all scores similar.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if type(module).__name__ == 'LayerScale':  # ours and mmpretrain's
                for parameter in module.parameters():
                    parameter.fill_(1.0)
        for branch in (*model.bbox_head.reg_branches, *model.bbox_head.cls_branches):
            last = branch[-1] if isinstance(branch, nn.Sequential) else branch
            last.weight.normal_(std=0.05, generator=generator)
            last.bias.zero_()
    return model.eval()


@torch.no_grad()
def _differences(model: DINO, sizes: list[Size], seed: int) -> tuple[float, float, int]:
    """Returns the largest differences of boxes and scores of the first image, and its box count."""
    batch = random_batch(sizes, model.bbox_head.num_classes, seed)
    first = {key: values[:1] for key, values in batch.items()}
    together = model.test_step(batch)[0].pred_instances
    alone = model.test_step(first)[0].pred_instances
    return *_compare(alone, together, max(sizes[0])), len(alone)


def _compare(alone: InstanceData, together: InstanceData, side: int) -> tuple[float, float]:
    """Returns the largest differences of boxes, in sides of the image, and of scores.

    Detections with almost the same score may swap places, so each of them is compared with the most
    similar one of its class.
    """
    boxes = torch.cdist(alone.bboxes, together.bboxes, p=torch.inf).numpy() / side
    scores = (alone.scores[:, None] - together.scores).abs().numpy()
    same_class = (alone.labels[:, None] == together.labels).numpy()
    rows, cols = linear_sum_assignment(np.where(same_class, boxes + scores, 1e3))
    # A detection without a counterpart in its class counts as entirely different.
    paired = same_class[rows, cols]
    return (
        float(np.where(paired, boxes[rows, cols], 1.0).max()),
        float(np.where(paired, scores[rows, cols], 1.0).max()),
    )
