"""Compares detectors with and without masks."""

from __future__ import annotations

from functools import partial

from ...config.files import find_config
from .. import cases
from ..cost import describe_batches
from ..detectors import DetectorSpec, read_detector_config
from ..isolated import CaseError
from ..settings import Settings
from ..tables import NOT_MEASURED, BenchmarkReport
from ..timing import Spread, ratio
from ..workloads import sizes_within
from .project_configs import QUICKSTART, TINY_OPTIONS

COMPARISON = ('config', 'measured', 'with masks', 'without', 'ratio', 'limit')
# Masks of an image in training.
_NUM_MASKS = 20


def masks(report: BenchmarkReport, settings: Settings) -> None:
    """Measures training steps and predictions with masks, relative to those without."""
    # config, the same with masks, settings, long side, images of a batch, rounds
    models = [('dino_dinov2_s_ft', 'dino_dinov2_s_ft_seg', {}, 518, 4, 3)]
    if settings.dry_run:
        models = [(QUICKSTART, 'dino_dinov2_seg_quickstart', TINY_OPTIONS, 84, 2, 1)]
    for model in models:
        _compare(report, settings, *model)


def _compare(
    report: BenchmarkReport,
    settings: Settings,
    without: str,
    with_masks: str,
    options: dict,
    side: int,
    batch_size: int,
    repeats: int,
) -> None:
    specs = [
        DetectorSpec(find_config(name), options, device=settings.device, seed=settings.seed)
        for name in (with_masks, without)
    ]
    batches = [sizes_within(side, batch_size, settings.seed)]
    patch_size = read_detector_config(specs[1]).model.backbone.patch_size
    table = report.table(
        f'{without}, long side {side}: with and without masks, fp32',
        COMPARISON,
        [
            *describe_batches(batches, patch_size, settings.seed),
            f'{_NUM_MASKS} masks per image in training; predictions of random weights; times in '
            'turns in one process; memory: growth of that of a process of its own',
        ],
    )
    run = partial(
        settings.run_case, time_limit=settings.time_limit, batches=batches, seed=settings.seed
    )
    both = [spec.as_dict() for spec in specs]
    rounds, boxes = settings.repeats or repeats, (_NUM_MASKS, _NUM_MASKS)

    def steps() -> list[list[float]]:
        return run(cases.training_times, specs=both, repeats=rounds, boxes=boxes)['seconds']

    def memory() -> list[float]:
        return [run(cases.training_memory, spec=spec, boxes=boxes)['mib'] for spec in both]

    def predictions() -> list[list[float]]:
        return run(cases.prediction_times, specs=both, repeats=rounds)['seconds']

    for measured, limit, measure in (
        ('training step s', '<= 1.25', steps),
        ('training step MiB', '<= 1.35', memory),
        ('prediction of a batch s', '<= 1.2', predictions),
    ):
        row: dict = {'config': with_masks, 'measured': measured, 'limit': limit}
        try:
            first, second = measure()
            if isinstance(first, list):
                row['ratio'] = ratio(first, second)
                first, second = Spread.of(first), Spread.of(second)
            elif first and second:
                row['ratio'] = first / second
            row |= {'with masks': first, 'without': second}
        except CaseError as error:
            row['with masks'] = f'{NOT_MEASURED}: {error}'
        report.add(table, row)
