"""Counts the operators of a training step: what a GPU is fed with, and how often it is waited for.

A GPU that computes faster than Python calls waits for the next kernel. Both numbers are counted on
a CPU, and depend on the machine in a few places only: images of different sizes are attended to one
after the other, where a GPU in bf16 has one kernel for all of them, and mmdet's deformable
attention is mmcv's PyTorch version.
"""

from __future__ import annotations

import itertools

from ...config.files import find_config
from .. import cases
from ..detectors import DetectorSpec
from ..isolated import CaseError
from ..operators import OTHER
from ..parts import PARTS
from ..settings import Settings
from ..tables import NOT_MEASURED, BenchmarkReport
from .project_configs import QUICKSTART, TINY_OPTIONS

# Operators of the forward and the backward pass, and waits of the host in them.
LIMITS = {('ours', 'bf16', ''): '<= 2500', ('ours', 'bf16', 'yes'): '<= 1500'}
WAIT_LIMIT = '<= 1'
# Beside the forward and the backward pass.
_OUTSIDE = ('data', 'optimizer')
_MOST_FREQUENT = 12


def kernels(report: BenchmarkReport, settings: Settings) -> None:
    """Counts operators and waits of the parts of a training step, ours and mmdet's."""
    # So few queries that mmdet finds as many cells in small images; the number hardly matters.
    options: dict = {'model.num_queries': 100}
    config, sizes = 'dino_dinov2_s_12ep', [(128, 192), (192, 160)]
    precisions = ('fp32', 'bf16')
    if settings.dry_run:
        config, options, sizes = QUICKSTART, TINY_OPTIONS, [(56, 84), (84, 70)]
        precisions = ('bf16',)
    notes = [
        f'images of {" and ".join(f"{h}x{w}" for h, w in sizes)}; seed {settings.seed}; counted on '
        'a CPU; views and allocations are left out',
        'step: forward and backward pass, without data and optimizer',
        'compiled: kernels as the compiler makes them for a CPU',
    ]
    parts = (*PARTS, OTHER)
    operators = report.table(
        f'{config}: operators of a training step',
        ('model', 'precision', 'compiled', 'step', 'limit', *parts),
        notes,
    )
    waits = report.table(
        f'{config}: waits of the host in a training step', ('model', 'step', 'limit', *parts), notes
    )
    frequent = report.table(
        f'{config}: most frequent operators of a training step',
        ('model', 'precision', 'compiled', 'operators'),
        notes,
    )
    variants = itertools.product((False, True), precisions, (False, True))
    for stock, precision, compiled in variants:
        if stock and compiled:
            continue
        spec = DetectorSpec(
            find_config(config),
            {**options, 'model.compiled': True} if compiled else options,
            stock,
            precision,
            'cpu',
            settings.seed,
        )
        kind = {'model': spec.name, 'precision': precision, 'compiled': 'yes' if compiled else ''}
        row = {**kind, 'limit': LIMITS.get(tuple(kind.values()))}
        try:
            counted = settings.run_case(
                cases.training_operators,
                settings.time_limit,
                spec=spec.as_dict(),
                sizes=sizes,
                seed=settings.seed,
            )
        except CaseError as error:
            report.add(operators, {**row, 'step': f'{NOT_MEASURED}: {error}'})
            continue
        report.add(operators, row | _with_sum(counted['operators']))
        if precision == 'bf16' and not compiled:
            limit = None if stock else WAIT_LIMIT
            row = {'model': spec.name, 'limit': limit, **_with_sum(counted['waits'])}
            report.add(waits, row)
        names = itertools.islice(counted['names'].items(), _MOST_FREQUENT)
        words = ', '.join(f'{name} {count}' for name, count in names)
        report.add(frequent, {**kind, 'operators': words})


def _with_sum(counts: dict[str, int]) -> dict[str, int]:
    """Adds the number in the forward and the backward pass."""
    return {'step': sum(n for part, n in counts.items() if part not in _OUTSIDE), **counts}
