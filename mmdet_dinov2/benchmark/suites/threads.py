"""Compares training steps beside a busy core and on an idle machine, with short and long spins."""

from __future__ import annotations

import statistics

from ...config.files import find_config
from .. import cases
from ..detectors import DetectorSpec
from ..isolated import CaseError
from ..settings import Settings
from ..tables import BenchmarkReport
from ..timing import Spread, ratio
from ..workloads import sizes_within
from .project_configs import QUICKSTART, TINY_OPTIONS

# What mmdet_dinov2.environment.threads sets, and what libgomp takes without it.
SHORT, DEFAULT = 'GOMP_SPINCOUNT=1000', 'GOMP_SPINCOUNT=300000'
# Beside a busy core, the default may need minutes for a step.
TIME_LIMIT = 90
LIMITS = {False: '<= 1.03', True: '<= 2.5'}


def threads(report: BenchmarkReport, settings: Settings) -> None:
    """Measures training steps on a CPU beside a busy core, with short and with long spins."""
    side, batch_size, steps, rounds = 168, 8, 5, 3
    options: dict = {}
    if settings.dry_run:
        side, batch_size, steps, rounds, options = 84, 2, 1, 1, TINY_OPTIONS
    spec = DetectorSpec(find_config(QUICKSTART), options, device='cpu', seed=settings.seed)
    work = dict(
        specs=[spec.as_dict()],
        batches=[sizes_within(side, batch_size, settings.seed)],
        seed=settings.seed,
        repeats=steps,
    )
    times: dict[tuple[str, bool], list[float]] = {}
    failed: dict[tuple[str, bool], str] = {}
    for _ in range(settings.repeats or rounds):
        for busy in (False, True):
            for spins in (SHORT, DEFAULT):
                if (spins, busy) in failed:
                    continue
                try:
                    result = settings.run_case(
                        cases.training_times_beside,
                        min(TIME_LIMIT, settings.time_limit),
                        variables=dict([spins.split('=')]),
                        busy=int(busy),
                        **work,
                    )
                except CaseError as error:
                    failed[spins, busy] = str(error)
                    continue
                median = statistics.median(result['seconds'][0])
                times.setdefault((spins, busy), []).append(median)
    table = report.table(
        f'{QUICKSTART}, long side {side}, batch of {batch_size}: training step, fp32',
        ('machine', 'spins', 'step s', 'ratio', 'limit'),
        [
            f'medians of {steps} steps in processes of their own, in turns; the ratio is to the '
            f'idle machine with {DEFAULT}, the default of libgomp',
        ],
    )
    base = times.get((DEFAULT, False))
    for busy in (False, True):
        for spins in (SHORT, DEFAULT):
            row: dict = {'machine': 'one core busy' if busy else 'idle', 'spins': spins}
            measured = times.get((spins, busy))
            if measured:
                row['step s'] = Spread.of(measured)
                if base and len(base) == len(measured):
                    row['ratio'] = ratio(measured, base)
            if (spins, busy) in failed:
                row['step s'] = failed[spins, busy]
            if spins == SHORT:
                row['limit'] = LIMITS[busy]
            report.add(table, row)
