"""Measures what it costs that a step can be done again after memory was exhausted."""

from __future__ import annotations

from ...config.files import find_config
from .. import redo_cases
from ..detectors import DetectorSpec
from ..isolated import CaseError
from ..settings import Settings
from ..tables import NOT_MEASURED, BenchmarkReport
from ..timing import Spread, ratio
from ..workloads import sizes_within
from .project_configs import QUICKSTART, TINY_OPTIONS


def redo(report: BenchmarkReport, settings: Settings) -> None:
    """Measures steps that can be done again after exhausted memory, relative to others."""
    side, batch_size, repeats, options = 168, 8, 31, {}
    if settings.dry_run:
        side, batch_size, repeats, options = 84, 2, 1, TINY_OPTIONS
    spec = DetectorSpec(find_config(QUICKSTART), options, device='cpu', seed=settings.seed)
    table = report.table(
        f'{QUICKSTART}, long side {side}, batch of {batch_size}: steps without exhausted memory',
        ('case', 'with s', 'without s', 'ratio', 'limit'),
        [
            'one process: a step of the training loop, relative to a plain one of mmengine; two '
            'processes of this machine, gloo: gradients averaged once all processes have theirs, '
            'relative to averaging during the backward pass',
            f'times in turns, {settings.repeats or repeats} rounds; seed {settings.seed}',
        ],
    )
    cases = [
        ('one process', redo_cases.step_times, '<= 1.01'),
        ('two processes', redo_cases.exchange_times, None),
    ]
    for name, case, limit in cases:
        row: dict = {'case': name, 'limit': limit}
        try:
            times = settings.run_case(
                case,
                settings.time_limit,
                spec=spec.as_dict(),
                sizes=sizes_within(side, batch_size, settings.seed),
                seed=settings.seed,
                repeats=settings.repeats or repeats,
            )
            row |= dict(zip(('with s', 'without s'), map(Spread.of, times.values()), strict=True))
            row['ratio'] = ratio(*times.values())
        except CaseError as error:
            row['with s'] = f'{NOT_MEASURED}: {error}'
        report.add(table, row)
