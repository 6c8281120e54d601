"""Compares whole training steps with those of mmdet's stock DINO."""

from __future__ import annotations

from pathlib import Path

from ...config.files import find_config
from .. import cases
from ..cost import TRAINING, add_training_row, describe_batches
from ..detectors import DetectorSpec, read_detector_config
from ..isolated import CaseError
from ..settings import Settings
from ..tables import NOT_MEASURED, BenchmarkReport, Table
from ..timing import Spread, ratio
from ..workloads import sizes_within
from .project_configs import QUICKSTART, TINY_OPTIONS

COMPARISON = (
    'model', 'ours s', 'mmdet s', 'time ratio', 'limit', 'ours MiB', 'mmdet MiB', 'memory ratio',
    'memory limit',
)  # fmt: skip


def training_step(report: BenchmarkReport, settings: Settings) -> None:
    """Measures time and memory of training steps on mixed sizes, relative to mmdet's DINO."""
    # config, settings, long side, images of a batch, batches, rounds
    models = [
        (QUICKSTART, {}, 168, 8, 2, 7),
        ('dino_dinov2_s_12ep', {}, 518, 4, 1, 3),
    ]
    if settings.dry_run:
        models = [(QUICKSTART, TINY_OPTIONS, 84, 2, 1, 1)]
    for name, options, side, batch_size, num_batches, repeats in models:
        ours = DetectorSpec(find_config(name), options, seed=settings.seed)
        sizes = sizes_within(side, batch_size * num_batches, settings.seed)
        batches = [sizes[i : i + batch_size] for i in range(0, len(sizes), batch_size)]
        patch_size = read_detector_config(ours).model.backbone.patch_size
        notes = [
            *describe_batches(batches, patch_size, settings.seed),
            f'times in turns in one process, {settings.repeats or repeats} rounds; memory: growth '
            'of the resident memory of a process of its own',
        ]
        table = report.table(f'{name}, long side {side}: training step, fp32', COMPARISON, notes)
        add_comparison_row(report, table, settings, ours, batches, repeats, '<= 0.75', '<= 0.75')
        parts = report.table(f'{name}, long side {side}: parts of a training step', TRAINING, notes)
        for spec in (ours, stock_of(ours)):
            add_training_row(report, parts, settings, spec, batches)


def reproducible(report: BenchmarkReport, settings: Settings) -> None:
    """Measures the time of training steps with reproducible=True, relative to those without."""
    # config, settings, long side, images of a batch, rounds
    model = (QUICKSTART, {}, 168, 8, 15)
    if settings.device == 'cuda':
        model = ('dino_dinov2_b_12ep', {}, 800, 2, 15)
    if settings.dry_run:
        model = (QUICKSTART, TINY_OPTIONS, 84, 2, 1)
    name, options, side, batch_size, repeats = model
    without = DetectorSpec(find_config(name), options, device=settings.device, seed=settings.seed)
    specs = [DetectorSpec(**{**without.as_dict(), 'reproducible': True}), without]
    batches = [sizes_within(side, batch_size, settings.seed)]
    patch_size = read_detector_config(without).model.backbone.patch_size
    table = report.table(
        f'{name}, long side {side}: training step with and without reproducible=True, fp32',
        ('model', 'with s', 'without s', 'ratio'),
        [*describe_batches(batches, patch_size, settings.seed), 'times in turns in one process'],
    )
    row: dict = {'model': name}
    try:
        times = settings.run_case(
            cases.training_times,
            settings.time_limit,
            specs=[spec.as_dict() for spec in specs],
            batches=batches,
            seed=settings.seed,
            repeats=settings.repeats or repeats,
        )['seconds']
        row |= {'with s': Spread.of(times[0]), 'without s': Spread.of(times[1])}
        row['ratio'] = ratio(*times)
    except CaseError as error:
        row['with s'] = f'{NOT_MEASURED}: {error}'
    report.add(table, row)


def stock_of(ours: DetectorSpec) -> DetectorSpec:
    """Returns the stock detector of mmdet in the size of ours."""
    return DetectorSpec(**{**ours.as_dict(), 'stock': True})


def add_comparison_row(
    report: BenchmarkReport,
    table: Table,
    settings: Settings,
    ours: DetectorSpec,
    batches: list,
    repeats: int,
    time_limit: str,
    memory_limit: str,
) -> None:
    """Adds a row with the columns ``COMPARISON``; the cells of a failed case say why it failed."""
    row: dict = {'model': Path(ours.config).stem, 'limit': time_limit, 'memory limit': memory_limit}
    specs = (ours, stock_of(ours))
    work = dict(batches=batches, seed=settings.seed)
    try:
        times = settings.run_case(
            cases.training_times,
            settings.time_limit,
            specs=[spec.as_dict() for spec in specs],
            repeats=settings.repeats or repeats,
            **work,
        )['seconds']
        row |= {f'{spec.name} s': Spread.of(t) for spec, t in zip(specs, times, strict=True)}
        row['time ratio'] = ratio(*times)
    except CaseError as error:
        row['ours s'] = f'{NOT_MEASURED}: {error}'
    memory = {}
    for spec in specs:
        try:
            result = settings.run_case(
                cases.training_memory, settings.time_limit, spec=spec.as_dict(), **work
            )
            memory[spec.name] = row[f'{spec.name} MiB'] = result['mib']
        except CaseError as error:
            row[f'{spec.name} MiB'] = f'{NOT_MEASURED}: {error}'
    if memory.get('ours') and memory.get('mmdet'):
        row['memory ratio'] = memory['ours'] / memory['mmdet']
    report.add(table, row)
