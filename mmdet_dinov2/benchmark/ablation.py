"""Trains the runs of a plan and compares their scores, seed by seed."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scipy.stats import t as student_t

from ..engine.training import train
from ..errors import InputError
from ..files import write_text
from ..runs.run_log import read_run
from .ablation_plan import BASE, Plan, read_plan
from .isolated import run_isolated
from .tables import BenchmarkReport, Table

# The settings of a run, in its folder, while it is trained and when it has finished.
_STARTED = 'ablation_started.json'
_FINISHED = 'ablation.json'
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class MeanDifference:
    """Mean of the differences of pairs, and an interval for it.

    Attributes:
        mean: Mean difference.
        low: Lower end of the 95 % interval by Student's t; NaN for one pair.
        high: Upper end.
        count: Number of pairs.
    """

    mean: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, differences: Sequence[float]) -> MeanDifference:
        """Summarises one or more differences, each of which has the same expected value."""
        mean, count = statistics.fmean(differences), len(differences)
        half = math.nan
        if count > 1:
            error = statistics.stdev(differences) / math.sqrt(count)
            half = float(student_t.ppf((1 + _CONFIDENCE) / 2, count - 1)) * error
        return cls(mean, mean - half, mean + half, count)

    def __str__(self) -> str:
        interval = f' ({self.low:+.3f}..{self.high:+.3f})' if self.count > 1 else ''
        return f'{self.mean:+.3f}{interval}'

    def as_dict(self) -> dict[str, float | None]:
        """Returns the attributes by name, ready for JSON."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Result:
    """What a run is compared by.

    Attributes:
        score: The metric of the last evaluation.
        steps: Number of optimizer steps.
        seconds: Mean seconds of a step.
    """

    score: float
    steps: int
    seconds: float


def run_folder(work_dir: str | Path, change: str, seed: int) -> Path:
    """Returns the work folder of a run."""
    return Path(work_dir) / change / f'seed_{seed}'


def run_plan(
    path: str | Path,
    report: BenchmarkReport,
    work_dir: str | Path,
    train_missing: bool = True,
    tell: Callable[[str], None] = print,
    run: Callable[..., dict] = run_isolated,
) -> None:
    """Trains what a plan lacks, and writes the table after each run.

    Finished runs are not repeated, interrupted ones go on. Each run is a process of its own. All
    changes of a seed come before the next seed, so that a table of few runs is soon complete.

    Args:
        path: File of the plan.
        report: Takes the table.
        work_dir: Folder for the runs, ``CHANGE/seed_N``.
        train_missing: Whether to train; otherwise the table has the finished runs only.
        tell: Takes lines about the progress.
        run: What calls a function in a new process.

    Raises:
        InputError: If the plan cannot be used, or a finished run has other settings.
        CaseError: If a run fails.
    """
    plan = read_plan(path)
    runs = [(change, seed) for seed in plan.seeds for change in plan.changes]
    results = {key: read_result(plan, work_dir, *key) for key in runs}
    missing = [key for key in runs if results[key] is None]
    if train_missing and missing:
        plan.check(work_dir)
    table = report.table('', ())
    _fill(table, plan, results)
    for number, (change, seed) in enumerate(missing if train_missing else (), 1):
        folder = run_folder(work_dir, change, seed)
        tell(f'run {number} of {len(missing)}: {change}, seed {seed}, in {folder}')
        run(train_run, None, plan=str(path), change=change, seed=seed, work_dir=str(work_dir))
        results[change, seed] = read_result(plan, work_dir, change, seed)
        _fill(table, plan, results)
        report.save()
    report.save()


def train_run(plan: str, change: str, seed: int, work_dir: str) -> dict:
    """Trains one run of a plan, in this process, and records its settings beside it."""
    found = read_plan(plan)
    folder = run_folder(work_dir, change, seed)
    options = found.options_of(change, seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / _STARTED, json.dumps(_settings(found, change, seed)) + '\n')
    train(found.config, found.data, work_dir=folder, options=options, resume=True, preflight=False)
    os.replace(folder / _STARTED, folder / _FINISHED)
    return {}


def read_result(plan: Plan, work_dir: str | Path, change: str, seed: int) -> Result | None:
    """Returns the result of a finished run; None if it has not finished.

    Raises:
        InputError: If the run was trained or begun with other settings, or lacks the metric.
    """
    folder = run_folder(work_dir, change, seed)
    records = [path for path in (folder / _FINISHED, folder / _STARTED) if path.is_file()]
    if not records:
        return None
    if _read_record(records[0]) != _settings(plan, change, seed):
        raise InputError(
            f'{folder} was trained with settings that the plan, or its config, does not have; give '
            'a different --work-dir, or delete the folder'
        )
    if records[0].name == _STARTED:
        return None
    log = read_run(folder)
    scores = [entry for entry in log.evaluations if plan.metric in entry]
    if not scores:
        known = sorted({name for entry in log.evaluations for name in entry} - {'step'})
        raise InputError(
            f'{folder} has no evaluation with the metric {plan.metric!r}, only {", ".join(known)}'
        )
    steps = int(log.training[-1]['iter'])
    return Result(scores[-1][plan.metric], steps, float(log.hours(steps)) * 3600 / steps)


def _read_record(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise InputError(f'{path} is damaged ({error}); delete the folder of the run') from error


def _settings(plan: Plan, change: str, seed: int) -> dict:
    """Returns all that the plan and its config say about a run, as JSON gives it back."""
    said = dict(
        config=plan.config,
        config_hash=plan.config_hash,
        data=plan.data,
        options=plan.options_of(change, seed),
    )
    return json.loads(json.dumps(said, default=str, sort_keys=True))


def _fill(table: Table, plan: Plan, results: Mapping[tuple[str, int], Result | None]) -> None:
    """Fills a table with the finished runs."""
    done = {key: result for key, result in results.items() if result is not None}
    table.title = f'{Path(plan.config).stem}: {plan.metric} of changes, the same seeds'
    table.columns = ('change', 'seeds', 'mean', 'spread', 'difference', 's per step', 'steps')
    table.notes = [
        'spread: least and greatest score; difference: mean over the seeds of change - base, with '
        f'its {_CONFIDENCE:.0%} interval (t of paired differences)'
    ]
    table.notes += [
        f'{change} is compared with {reference}' for change, reference in plan.references.items()
    ]
    table.rows = []
    for change in plan.changes:
        of_change = {seed: done[change, seed] for seed in plan.seeds if (change, seed) in done}
        if of_change:
            reference = plan.references.get(change, BASE)
            base = {seed: done[reference, seed] for seed in of_change if (reference, seed) in done}
            table.rows.append(_row(change, of_change, base))
    if len({result.steps for result in done.values()}) > 1:
        table.notes.append('**The runs have different numbers of steps, so they do not compare.**')


def _row(change: str, results: Mapping[int, Result], base: Mapping[int, Result]) -> dict[str, Any]:
    scores = [result.score for result in results.values()]
    row = {
        'change': change,
        'seeds': len(scores),
        'mean': statistics.fmean(scores),
        'spread': f'{min(scores):.3f}..{max(scores):.3f}',
        's per step': statistics.fmean(result.seconds for result in results.values()),
        'steps': ', '.join(map(str, sorted({result.steps for result in results.values()}))),
    }
    if base and change != BASE:
        row['difference'] = MeanDifference.of(
            [results[seed].score - base[seed].score for seed in base]
        )
    return row
