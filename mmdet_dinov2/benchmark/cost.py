"""Cost of detectors: parameters, operations, memory, time of training and inference."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from . import cases
from .backbones import build_backbone, installed_peers, random_images
from .detectors import DetectorSpec, autocast, read_detector_config
from .isolated import CaseError
from .machine import peak_flops
from .parts import PARTS
from .settings import Settings
from .tables import NOT_MEASURED, BenchmarkReport, Table
from .timing import Spread, measure_in_turns, ratio
from .workloads import Size, canvas_of, describe_sizes, valid_share

TRAINING = (
    'model', 'trained M', 'frozen M', 'step s', *(f'{part} s' for part in PARTS), 'peak MiB',
)  # fmt: skip
INFERENCE = (
    'model', 'GFLOP', 'deformable GFLOP', 'forward s', 'TFLOP/s', 'of peak', 'latency s',
    'images/s', 'peak MiB',
)  # fmt: skip


@dataclass(frozen=True)
class Workload:
    """What is measured for each config.

    Attributes:
        draw: Draws the sizes of images, given their number and a seed.
        archs: Backbones to measure instead of that of the config; None is that of the config.
        precisions: Precisions to measure, of 'fp32' and 'bf16'.
        batch_sizes: Numbers of images per batch.
        num_batches: Number of batches per pass.
        options: Settings that override each config.
        from_config: Whether to load training batches from the data of the config.
        compare: Whether to measure the peers too.
    """

    draw: Callable[[int, int], list[Size]]
    archs: Sequence[str | None] = (None,)
    precisions: Sequence[str] = ('fp32',)
    batch_sizes: Sequence[int] = (2,)
    num_batches: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    from_config: bool = False
    compare: bool = False

    def batches(self, batch_size: int, seed: int) -> list[list[Size]]:
        """Draws the sizes of the images of each batch."""
        sizes = self.draw(batch_size * self.num_batches, seed)
        return [sizes[i : i + batch_size] for i in range(0, len(sizes), batch_size)]

    def specs(self, config: str, precision: str, settings: Settings) -> list[DetectorSpec]:
        """Returns the detectors of a config, each of them followed by its peer."""
        specs = []
        for arch in self.archs:
            options = dict(self.options, **({'model.backbone.arch': arch} if arch else {}))
            for stock in (False, True) if self.compare else (False,):
                specs.append(
                    DetectorSpec(config, options, stock, precision, settings.device, settings.seed)
                )
        return specs


def measure_costs(
    report: BenchmarkReport, settings: Settings, configs: Sequence[str], workload: Workload
) -> None:
    """Measures detectors of all configs, backbones, precisions and batch sizes.

    Every measurement of a detector runs in a process of its own.

    Args:
        report: Receives two tables for each config, precision and batch size.
        settings: How to measure.
        configs: Config files.
        workload: What to measure.
    """
    variants = itertools.product(configs, workload.precisions, workload.batch_sizes)
    for config, precision, batch_size in variants:
        specs = workload.specs(config, precision, settings)
        patch_size = read_detector_config(specs[0]).model.backbone.patch_size
        batches = workload.batches(batch_size, settings.seed)
        notes = describe_batches(batches, patch_size, settings.seed)
        if workload.from_config:
            notes = ['training batches: loaded from the data of the config', *notes]
        title = f'{Path(config).stem}, {precision}, batch {batch_size}'
        training = report.table(f'{title}: training step', TRAINING, notes)
        for spec in specs:
            add_training_row(report, training, settings, spec, batches, workload.from_config)
        inference = report.table(f'{title}: inference', INFERENCE, notes)
        for spec in specs:
            add_inference_row(report, inference, settings, spec, batches)
    if workload.compare:
        for precision in workload.precisions:
            _compare_backbones(report, settings, configs, workload, precision)


def describe_batches(batches: Sequence[Sequence[Size]], patch_size: int, seed: int) -> list[str]:
    """Words sizes, share of valid tokens and seed as notes of a table."""
    shares = [valid_share(sizes, patch_size) for sizes in batches]
    return [
        f'seed {seed}; {len(batches)} batches; valid tokens: '
        + ', '.join(f'{share:.2f}' for share in shares),
        'sizes: ' + '; '.join(describe_sizes(sizes) for sizes in batches),
    ]


def add_training_row(
    report: BenchmarkReport,
    table: Table,
    settings: Settings,
    spec: DetectorSpec,
    batches: Sequence[Sequence[Size]],
    from_config: bool = False,
) -> None:
    """Measures training steps of a detector and adds a row with the columns ``TRAINING``."""
    try:
        cost = settings.run_case(
            cases.training_cost,
            settings.time_limit,
            spec=spec.as_dict(),
            batches=batches,
            seed=settings.seed,
            repeats=settings.repeats or 3,
            from_config=from_config,
        )
    except CaseError as error:
        report.add(table, {'model': describe(spec), 'step s': f'{NOT_MEASURED}: {error}'})
        return
    parts = {f'{part} s': Spread.of(seconds).median for part, seconds in cost['parts'].items()}
    report.add(
        table,
        {
            'model': describe(spec),
            'trained M': cost['trained'] / 1e6,
            'frozen M': cost['frozen'] / 1e6,
            'step s': Spread.of(cost['seconds']),
            **parts,
            'peak MiB': cost['mib'],
        },
    )


def add_inference_row(
    report: BenchmarkReport,
    table: Table,
    settings: Settings,
    spec: DetectorSpec,
    batches: Sequence[Sequence[Size]],
) -> None:
    """Measures predictions of a detector and adds a row with the columns ``INFERENCE``."""
    try:
        cost = settings.run_case(
            cases.inference_cost,
            settings.time_limit,
            spec=spec.as_dict(),
            batches=batches,
            seed=settings.seed,
            repeats=settings.repeats or 3,
        )
    except CaseError as error:
        report.add(table, {'model': describe(spec), 'GFLOP': f'{NOT_MEASURED}: {error}'})
        return
    forward = Spread.of(cost['forward'])
    rate = cost['flops'] / forward.median
    peak = peak_flops(report.machine.get('gpu') or '', spec.precision)
    report.add(
        table,
        {
            'model': describe(spec),
            'GFLOP': cost['flops'] / 1e9,
            'deformable GFLOP': cost['deformable_flops'] / 1e9,
            'forward s': forward,
            'TFLOP/s': rate / 1e12,
            'of peak': peak and f'{rate / peak:.1%} of {peak / 1e12:g} TFLOP/s',
            'latency s': Spread.of(cost['latency']),
            'images/s': len(batches[0]) / Spread.of(cost['seconds']).median,
            'peak MiB': cost['mib'],
        },
    )


def describe(spec: DetectorSpec) -> str:
    """Returns a short description of a detector."""
    options = ' '.join(f'{key.removeprefix("model.")}={v}' for key, v in spec.options.items())
    return f'{spec.name} {options}'.strip()


def _compare_backbones(
    report: BenchmarkReport,
    settings: Settings,
    configs: Sequence[str],
    workload: Workload,
    precision: str,
) -> None:
    """Compares the backbones of all libraries on a padded batch of each config."""
    columns = ('backbone', 'forward s', 'ours / peer', 'parameters M')
    libraries = ['ours', *installed_peers()]
    for config, batch_size in itertools.product(configs, workload.batch_sizes):
        for spec in workload.specs(config, precision, settings):
            if spec.stock:
                continue
            backbone = read_detector_config(spec).model.backbone
            if backbone.type != 'DINOv2':
                report.table(
                    f'{Path(config).stem}, backbones alone: {NOT_MEASURED}, the peers are DINOv2',
                    (),
                )
                continue
            patch_size = backbone.patch_size
            sizes = workload.batches(batch_size, settings.seed)[0]
            canvas = canvas_of(sizes, patch_size)
            built = {
                library: build_backbone(
                    library,
                    backbone.get('arch', 'base'),
                    patch_size,
                    backbone.get('img_size', 518),
                )
                for library in libraries
            }
            images = random_images(len(sizes), canvas, settings.seed).to(settings.device)
            runs = {}
            for library, peer in built.items():
                peer.model.to(settings.device)
                runs[library] = _forward(peer.features, images, sizes, spec)
            times = measure_in_turns(runs, settings.repeats or 3, settings.device)
            table = report.table(
                f'{Path(config).stem}, {describe(spec)}, {precision}, batch {batch_size}: '
                'backbones alone, the peers on the padded batch',
                columns,
                describe_batches([sizes], patch_size, settings.seed),
            )
            for library in libraries:
                size = sum(p.numel() for p in built[library].model.parameters())
                report.add(
                    table,
                    {
                        'backbone': library,
                        'forward s': Spread.of(times[library]),
                        'ours / peer': ratio(times['ours'], times[library]),
                        'parameters M': size / 1e6,
                    },
                )


def _forward(
    features: Callable, images: torch.Tensor, sizes: Sequence[Size], spec: DetectorSpec
) -> Callable[[], None]:
    @torch.no_grad()
    def run() -> None:
        with autocast(spec):
            features(images, sizes)

    return run
