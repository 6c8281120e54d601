"""Compares the backbone with padded peers, and windows with global attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ...layers import TokenLayout, valid_cells
from ...models.dinov2 import PRETRAIN_PATCH_SIZE
from ..backbones import Backbone, build_backbone, installed_peers, random_images
from ..flops import count_flops
from ..settings import Settings
from ..tables import NOT_MEASURED, BenchmarkReport, Table
from ..timing import Spread, measure_in_turns, ratio
from ..workloads import Size, canvas_of, describe_sizes, detr_sizes, valid_share

TINY_ARCH = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64, ffn='mlp')
_RATIO_COLUMNS = ('backbone', 'pass', 'case', 'case s', 'peer', 'peer s', 'ratio', 'limit')


def equal_sizes(report: BenchmarkReport, settings: Settings) -> None:
    """Measures the time of the backbone relative to timm's and mmpretrain's, on equal sizes."""
    archs, side, batch_size = ['small', 'base'], 518, 1
    if settings.dry_run:
        archs, side = [TINY_ARCH], 56
    repeats = settings.repeats or 12
    peers = installed_peers(('timm', 'mmpretrain'))
    table = report.table(
        'Backbone alone, equal sizes, fp32',
        _RATIO_COLUMNS,
        [
            f'{batch_size} image of {side}x{side}, patch 14; seed {settings.seed}; '
            f'{repeats} rounds',
            'median (quartiles); "timm again" compares timm with itself: the noise of the machine',
        ],
    )
    for arch in archs:
        torch.manual_seed(settings.seed)
        built = {
            library: build_backbone(library, arch, img_size=side) for library in ('ours', *peers)
        }
        if 'timm' in built:
            built['timm again'] = built['timm']
        images = random_images(batch_size, (side, side), settings.seed)
        for name, make in (('forward', _forward), ('forward+backward', _train)):
            cases = {library: make(backbone, images) for library, backbone in built.items()}
            times = measure_in_turns(cases, repeats)
            for peer in peers:
                _add_ratio(report, table, arch, name, times, 'ours', peer, '<= 1.02')
            if 'timm' in built:
                _add_ratio(report, table, arch, name, times, 'timm again', 'timm', 'noise')


def mixed_sizes(report: BenchmarkReport, settings: Settings) -> None:
    """Measures the time relative to timm's on padded batches, and the equality of features."""
    arch, batch_size, num_batches, patch_size = 'small', 4, 3, 14
    sizes_of = detr_sizes
    if settings.dry_run:
        arch, num_batches = TINY_ARCH, 2
        sizes_of = _tenth_of_detr_sizes
    if 'timm' not in installed_peers():
        report.table(
            f'Backbone on batches of mixed sizes: {NOT_MEASURED}, timm is not installed', ()
        )
        return
    repeats = settings.repeats or 2
    table = report.table(
        'Backbone on batches of mixed sizes, fp32, forward',
        ('sizes', 'valid tokens', 'ours s', 'timm, padded s', 'ratio', 'limit', 'features differ'),
        [
            f'{_name(arch)}, patch {patch_size}, batches of '
            f'{batch_size}, short side 480..800, long side <= 1333; seed {settings.seed}; '
            f'{repeats} rounds',
            'features differ: largest absolute difference between the normalised features of an '
            'image in the batch and alone; limit 1e-4',
        ],
    )
    torch.manual_seed(settings.seed)
    ours, timm = (
        build_backbone(library, arch, patch_size, layer_scale=1.0) for library in ('ours', 'timm')
    )
    for number in range(num_batches):
        sizes = sizes_of(batch_size, settings.seed + number)
        images = random_images(batch_size, canvas_of(sizes, patch_size), settings.seed + number)
        cases = {
            'ours': _forward(ours, images, sizes),
            'timm': _forward(timm, images),
        }
        times = measure_in_turns(cases, repeats, warmup=int(number == 0))
        share = valid_share(sizes, patch_size)
        report.add(
            table,
            {
                'sizes': describe_sizes(sizes),
                'valid tokens': share,
                'ours s': Spread.of(times['ours']),
                'timm, padded s': Spread.of(times['timm']),
                'ratio': ratio(times['ours'], times['timm']),
                'limit': f'<= {share:.3g}',
                'features differ': _difference_alone(ours, images, sizes, patch_size),
            },
        )


def windows(report: BenchmarkReport, settings: Settings) -> None:
    """Measures the time of window blocks and windowed backbones relative to global attention."""
    archs, side, repeats = ['small', 'base'], 1022, settings.repeats or 3
    window_size, global_blocks = 14, (2, 5, 8, 11)
    if settings.dry_run:
        archs, side, window_size, global_blocks = [TINY_ARCH], 70, 2, (1,)
    table = report.table(
        f'Windows of {window_size} at {side}x{side}, patch {PRETRAIN_PATCH_SIZE}, fp32, forward',
        (
            'backbone',
            'part',
            'windowed s',
            'global s',
            'ratio',
            'operations',
            'of the operations',
            'limit',
        ),
        [
            'operations: those of the windowed part relative to the global one; of the operations: '
            'the ratio relative to that',
            f'1 image, global blocks {", ".join(map(str, global_blocks))} of the windowed backbone;'
            f' seed {settings.seed}; {repeats} rounds',
        ],
    )
    image = random_images(1, (side, side), settings.seed)
    grids = tuple(valid_cells([(side, side)], PRETRAIN_PATCH_SIZE))
    layout = TokenLayout(grids, 1, window_size)
    for arch in archs:
        torch.manual_seed(settings.seed)
        windowed = build_backbone(
            'ours', arch, window_size=window_size, global_attn_indexes=global_blocks
        )
        model = windowed.model
        whole = build_backbone('ours', arch)
        for backbone in (windowed, whole):  # torch's counter of operations needs it
            backbone.model.requires_grad_(False)
        stream = torch.randn(layout.image_segments.num_tokens, model.embed_dims)
        cases = {
            'window block': _no_grad(model.blocks[0], stream, layout),
            'global block': _no_grad(model.blocks[global_blocks[0]], stream, layout),
            'windowed': _forward(windowed, image),
            'global': _forward(whole, image),
        }
        times = measure_in_turns(cases, repeats)
        flops = {name: count_flops(model, run).total for name, run in cases.items()}
        for part, one, other, limit in (
            ('block', 'window block', 'global block', '<= 1' if arch == 'base' else None),
            ('backbone', 'windowed', 'global', '<= 1'),
        ):
            measured, expected = ratio(times[one], times[other]), flops[one] / flops[other]
            report.add(
                table,
                {
                    'backbone': _name(arch),
                    'part': part,
                    'windowed s': Spread.of(times[one]),
                    'global s': Spread.of(times[other]),
                    'ratio': measured,
                    'operations': expected,
                    'of the operations': measured.median / expected,
                    'limit': limit,
                },
            )


def _name(arch: str | dict) -> str:
    return arch if isinstance(arch, str) else 'tiny'


def _tenth_of_detr_sizes(count: int, seed: int) -> list[Size]:
    return [(h // 10, w // 10) for h, w in detr_sizes(count, seed)]


def _no_grad(function: Callable[..., object], *args: object) -> Callable[[], object]:
    return torch.no_grad()(partial(function, *args))


def _forward(
    backbone: Backbone, images: Tensor, sizes: Sequence[Size] | None = None
) -> Callable[[], object]:
    return _no_grad(backbone.features, images, sizes)


def _train(backbone: Backbone, images: Tensor) -> Callable[[], object]:
    return partial(backbone.train_once, images)


def _add_ratio(
    report: BenchmarkReport,
    table: Table,
    arch: str | dict,
    name: str,
    times: dict[str, list[float]],
    ours: str,
    peer: str,
    limit: str,
) -> None:
    report.add(
        table,
        {
            'backbone': _name(arch),
            'pass': name,
            'case': ours,
            'case s': Spread.of(times[ours]),
            'peer': peer,
            'peer s': Spread.of(times[peer]),
            'ratio': ratio(times[ours], times[peer]),
            'limit': limit,
        },
    )


@torch.no_grad()
def _difference_alone(
    backbone: Backbone, images: Tensor, sizes: Sequence[Size], patch_size: int
) -> float:
    """Returns the largest difference between the features of an image in a batch and alone."""
    together = backbone.features(images, sizes)
    largest = 0.0
    for i, (height, width) in enumerate(sizes):
        alone = backbone.features(images[i : i + 1, :, :height, :width], None)[0]
        rows, cols = alone.shape[-2:]
        largest = max(largest, (together[i, :, :rows, :cols] - alone).abs().max().item())
    return largest
