"""Compares matching and losses with mmdet's."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from mmdet.models.dense_heads import DINOHead
from torch import Tensor

from ...models import BatchedDINOHead
from ...models.denoising import DenoisingQueryGenerator
from ...models.targets import BoxTargets
from ...sample_meta import sample_seeds
from ..settings import Settings
from ..tables import BenchmarkReport
from ..timing import Spread, measure_in_turns, ratio
from ..workloads import random_batch

_NUM_CLASSES = 80
_EMBED_DIMS = 256
_NUM_LAYERS = 6
# The weights of the published recipe.
_HEAD = dict(
    num_classes=_NUM_CLASSES,
    embed_dims=_EMBED_DIMS,
    sync_cls_avg_factor=True,
    num_pred_layer=_NUM_LAYERS + 1,
    as_two_stage=True,
    loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
    loss_bbox=dict(type='L1Loss', loss_weight=5.0),
    loss_iou=dict(type='GIoULoss', loss_weight=2.0),
)
_MATCH_COSTS = [
    dict(type='FocalLossCost', weight=2.0),
    dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
    dict(type='IoUCost', iou_mode='giou', weight=2.0),
]


def matching_and_losses(report: BenchmarkReport, settings: Settings) -> None:
    """Measures the time of matching and losses of all layers, relative to mmdet's head."""
    num_queries, num_boxes, sizes = 900, 100, [(800, 1066), (640, 853), (1066, 800), (768, 768)]
    if settings.dry_run:
        num_queries, num_boxes, sizes = 20, 5, sizes[:2]
    repeats = settings.repeats or 15
    samples = random_batch(sizes, _NUM_CLASSES, settings.seed, boxes=(num_boxes, num_boxes))[
        'data_samples'
    ]
    generator = DenoisingQueryGenerator(
        num_classes=_NUM_CLASSES,
        embed_dims=_EMBED_DIMS,
        num_matching_queries=num_queries,
        group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=100),
    )
    *_, dn_meta = generator(BoxTargets.collate(samples), sample_seeds(samples))
    num_dn_queries = dn_meta['num_denoising_queries']
    # With the same number of boxes in all images, both heads have the same denoising queries.
    theirs_meta = dict(
        num_denoising_queries=num_dn_queries, num_denoising_groups=dn_meta['layout'].groups[0]
    )
    predictions = _predictions(len(sizes), num_dn_queries, num_queries, settings)
    heads = {
        'ours': (_head(BatchedDINOHead, 'BatchedHungarianAssigner'), dn_meta),
        'mmdet': (_head(DINOHead, 'HungarianAssigner'), theirs_meta),
    }
    truth = [sample.gt_instances for sample in samples]
    metas = [sample.metainfo for sample in samples]

    def compute(name: str) -> Tensor:
        head, meta = heads[name]
        return sum(head.loss_by_feat(*predictions, truth, metas, meta).values())

    def train(name: str) -> Callable[[], None]:
        def run() -> None:
            compute(name).backward()
            for tensor in predictions:
                tensor.grad = None

        return run

    table = report.table(
        'Matching and losses, fp32',
        ('pass', 'ours s', 'mmdet s', 'ratio', 'limit', 'loss of ours', 'loss of mmdet'),
        [
            f'{_NUM_LAYERS} decoder layers and the proposals, {num_queries} queries, '
            f'{num_dn_queries} denoising queries, {num_boxes} boxes in each of {len(sizes)} '
            f'images, {_NUM_CLASSES} classes; seed {settings.seed}; {repeats} rounds'
        ],
    )
    losses = {name: float(compute(name).detach()) for name in heads}
    passes = {
        'forward': {name: lambda name=name: compute(name) for name in heads},
        'forward+backward': {name: train(name) for name in heads},
    }
    for label, cases in passes.items():
        times = measure_in_turns(cases, repeats)
        report.add(
            table,
            {
                'pass': label,
                'ours s': Spread.of(times['ours']),
                'mmdet s': Spread.of(times['mmdet']),
                'ratio': ratio(times['ours'], times['mmdet']),
                'limit': '<= 0.5',
                'loss of ours': f'{losses["ours"]:.6g}',
                'loss of mmdet': f'{losses["mmdet"]:.6g}',
            },
        )


def _head(head_type: type[DINOHead], assigner: str) -> DINOHead:
    train_cfg = dict(assigner=dict(type=assigner, match_costs=_MATCH_COSTS))
    return head_type(**copy.deepcopy(_HEAD), train_cfg=train_cfg)


def _predictions(
    batch_size: int, num_dn_queries: int, num_queries: int, settings: Settings
) -> list[Tensor]:
    """Draws random logits and boxes of the decoder layers and of the proposals."""
    generator = torch.Generator().manual_seed(settings.seed)

    def draw(*shape: int) -> tuple[Tensor, Tensor]:
        logits = torch.randn(*shape, _NUM_CLASSES, generator=generator) - 4
        centers = torch.rand(*shape, 2, generator=generator) * 0.6 + 0.2
        sides = torch.rand(*shape, 2, generator=generator) * 0.3 + 0.02
        return logits, torch.cat((centers, sides), -1)

    tensors = (
        *draw(_NUM_LAYERS, batch_size, num_dn_queries + num_queries),
        *draw(batch_size, num_queries),
    )
    return [tensor.requires_grad_() for tensor in tensors]
