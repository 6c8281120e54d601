"""Reads what a run has logged: training records and evaluations, or a CSV file."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import InputError

_STEP_COLUMNS = ('step', 'iter', 'iteration')
# A learning rate has dropped if it falls to this fraction from one record to the next.
_DROP = 0.5


@dataclass
class RunLog:
    """The records of a run, joined from all parts of a resumed run.

    Attributes:
        name: Name of the work folder or file.
        training: Records of training steps, by rising ``iter``.
        evaluations: Records of evaluations, by rising ``step``, counted in optimizer steps.
        epoch_length: Number of optimizer steps in an epoch; ``None`` if the log does not show it.
        files: The files that were read.
    """

    name: str
    training: list[dict] = field(default_factory=list)
    evaluations: list[dict] = field(default_factory=list)
    epoch_length: int | None = None
    files: list[Path] = field(default_factory=list)

    def series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns steps and values, both (N,), of the training records with a number for a key."""
        return _columns(self.training, 'iter', key)

    def hours(self, steps: np.ndarray) -> np.ndarray:
        """Returns the hours of training up to these steps, without evaluations.

        Raises:
            InputError: If no step times were logged.
        """
        logged, seconds = self.series('time')
        if not len(logged):
            raise InputError(
                f'{self.name}: the log has no step times to compute hours from; draw steps instead'
            )
        # A record holds the mean time of the steps since the previous record.
        spent = np.cumsum(np.diff(logged, prepend=0.0) * seconds) / 3600
        return np.interp(steps, np.append(0.0, logged), np.append(0.0, spent))

    def ap_curve(self, metric: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns steps and AP in points (0 to 100), both (N,), of the evaluations.

        Args:
            metric: Name in the log; ``None`` takes ``coco/bbox_mAP``, or else the first one that
                ends in ``bbox_mAP``.

        Raises:
            InputError: If there is no such metric.
        """
        if not self.evaluations:
            return np.empty(0), np.empty(0)
        names = sorted({name for record in self.evaluations for name in record} - {'step'})
        if metric is None:
            found = [name for name in names if name.split('/')[-1] == 'bbox_mAP']
            metric = 'coco/bbox_mAP' if 'coco/bbox_mAP' in found else (found or [None])[0]
            if metric is None and len(names) == 1:
                (metric,) = names
        if metric not in names:
            wanted = repr(metric) if metric else "a metric that ends in 'bbox_mAP'"
            raise InputError(
                f'{self.name}: {wanted} is not among the evaluated metrics {", ".join(names)}; '
                'name one of them with --metric'
            )
        steps, ap = _columns(self.evaluations, 'step', metric)
        # COCO's evaluation returns -1 if there is no box to find.
        steps, ap = steps[ap >= 0], ap[ap >= 0]
        return steps, ap * (100 if len(ap) and ap.max() <= 1 else 1)

    def lr_drops(self) -> list[int]:
        """Returns the steps after which the learning rate dropped, instead of following a curve."""
        steps, rates = self.series('base_lr')
        if not len(steps):
            steps, rates = self.series('lr')
        drops = []
        for i in range(2, len(rates)):
            constant = math.isclose(rates[i - 1], rates[i - 2], rel_tol=1e-3)
            if constant and 0 < rates[i] <= _DROP * rates[i - 1]:
                drops.append(_round_to_epoch(steps[i - 1], steps[i], self.epoch_length))
        return drops


def _columns(records: Sequence[dict], x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns two columns, both (N,), of the records that have a number for ``y``."""
    rows = [(record[x], record[y]) for record in records if _is_number(record.get(y))]
    columns = np.array(rows, dtype=float).reshape(-1, 2).T
    return columns[0], columns[1]


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _round_to_epoch(before: float, after: float, epoch_length: int | None) -> int:
    """Returns the end of an epoch between two logged steps, or the earlier step without one."""
    if epoch_length:
        boundary = math.ceil(before / epoch_length) * epoch_length
        if boundary < after:
            return boundary
    return int(before)


def read_run(path: str | Path) -> RunLog:
    """Reads a work folder, a log file of MMEngine, or a CSV file.

    The log of a work folder is joined from all its log folders. Steps that a resumed part repeats
    replace those that were logged before.

    Args:
        path: A work folder, one of its log folders, ``scalars.json``, or a CSV file with a column
            ``step`` (or ``iter``) and at least one metric.

    Returns:
        The log, without records if the run has not logged anything.

    Raises:
        FileNotFoundError: If there is nothing at the path, or no log in the folder.
        InputError: If a file is not a log or CSV file.
    """
    path = Path(path)
    if path.is_dir():
        files = find_logs(path)
        if not files:
            raise FileNotFoundError(
                f'{path} does not hold the log of a run (*/vis_data/scalars.json); name the work '
                'folder of a run'
            )
        return _join(path.resolve().name, files)
    if not path.is_file():
        raise FileNotFoundError(f'log {path} does not exist; check the path')
    return _read_csv(path) if path.suffix.lower() == '.csv' else _join(path.stem, [path])


def parse_step(text: str, epoch_length: int | None = None) -> int:
    """Returns the number of optimizer steps in a text such as '90000' or '12ep'.

    Args:
        text: A number of steps or of epochs.
        epoch_length: Number of optimizer steps in an epoch, if known.

    Raises:
        InputError: If it is neither, or if it is epochs and their length is not known.
    """
    match = re.fullmatch(r'(\d+(?:\.\d+)?)(?: *(ep|epochs?))?', str(text).strip())
    if match is None or (not match[2] and '.' in match[1]) or not float(match[1]):
        raise InputError(f'expected steps (90000) or epochs (12ep), but got {text!r}')
    if not match[2]:
        return int(match[1])
    if not epoch_length:
        raise InputError(
            f'{text}: the log does not show how many steps an epoch has; give --epoch-length'
        )
    return round(float(match[1]) * epoch_length)


def find_logs(work_dir: Path) -> list[Path]:
    """Returns the log files of a work folder, or of one of its log folders, in order of time."""
    work_dir = work_dir.absolute()
    logs = [*work_dir.glob('vis_data/scalars.json'), *work_dir.glob('*/vis_data/scalars.json')]
    # The names of log folders are times. A process that ended early may have left an empty file.
    return sorted((log for log in logs if log.stat().st_size), key=lambda log: log.parts[-3])


def _join(name: str, files: Sequence[Path]) -> RunLog:
    training: list[dict] = []
    evaluations: list[dict] = []
    for file in files:
        part_training, part_evaluations = _split(_read_records(file))
        if part_training:
            first = part_training[0]['iter']
            training = [r for r in training if r['iter'] < first]
            evaluations = [r for r in evaluations if r['after'] < first]
        for record in part_evaluations:
            if record['after'] is None:  # evaluated before anything was logged
                record['after'] = training[-1]['iter'] if training else 0
        training += part_training
        evaluations += part_evaluations
    length = _epoch_length(training)
    steps: dict[int, dict] = {}
    for record in evaluations:
        step = _step_of(record, training, length)
        steps[step] = {
            key: value
            for key, value in record.items()
            if key not in ('after', 'data_time', 'time') and _is_number(value)
        } | dict(step=step)
    return RunLog(name, training, [steps[step] for step in sorted(steps)], length, list(files))


def _read_records(file: Path) -> list[dict]:
    lines = file.read_text(encoding='utf-8').splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines):  # the run ended while it was writing
                break
            raise InputError(
                f'{file}, line {number} is not valid JSON ({error}); expected a log of MMEngine, '
                'with one record per line, such as vis_data/scalars.json'
            ) from error
        if not isinstance(record, dict):
            raise InputError(
                f'{file}, line {number} must be a dict, but is a {type(record).__name__}; expected '
                'a log of MMEngine, such as vis_data/scalars.json'
            )
        records.append(record)
    return records


def _split(records: list[dict]) -> tuple[list[dict], list[dict]]:
    """Separates training records from evaluations, which get the step they were logged after."""
    training: list[dict] = []
    evaluations: list[dict] = []
    for record in records:
        if 'iter' in record:
            if training and record['iter'] <= training[-1]['iter']:
                continue
            training.append(record)
        elif 'step' in record and not all(key.startswith(('memory/', 'step')) for key in record):
            evaluations.append(dict(record, after=training[-1]['iter'] if training else None))
    return training, evaluations


def _epoch_length(training: list[dict]) -> int | None:
    """Returns the number of optimizer steps in an epoch, from the first logged step of each."""
    first: dict[int, int] = {}
    for record in training:
        if 'epoch' in record:
            first.setdefault(record['epoch'], record['iter'])
    lengths = [first[epoch + 1] - first[epoch] for epoch in first if epoch + 1 in first]
    if lengths:
        # A run that is resumed within an epoch logs different steps of it.
        return Counter(lengths).most_common(1)[0][0]
    return None


def _step_of(evaluation: dict, training: list[dict], epoch_length: int | None) -> int:
    """Returns the optimizer steps before an evaluation, which is logged by epoch or by step."""
    step = int(evaluation['step'])
    if 'epoch' not in (training[-1] if training else {}) or step > training[-1]['epoch']:
        return step
    # The length of the first epoch is not known before its end: the last logged step is close.
    return step * epoch_length if epoch_length else evaluation['after']


def _read_csv(path: Path) -> RunLog:
    with path.open(newline='', encoding='utf-8-sig') as file:
        reader = csv.DictReader(file)
        header = reader.fieldnames or []
        column = next((name for name in header if name.strip().lower() in _STEP_COLUMNS), None)
        if column is None or len(header) < 2:
            raise InputError(
                f'{path} has the columns {", ".join(header) or "(none)"}; expected one named '
                'step or iter and at least one metric, such as bbox_mAP'
            )
        records = []
        for row in reader:
            try:
                numbers = {
                    name.strip(): float(value)
                    for name, value in row.items()
                    if name and value and value.strip()
                }
                records.append(numbers | dict(step=int(float(row[column]))))
            except (TypeError, ValueError) as error:
                raise InputError(
                    f'{path}, line {reader.line_num} must have numbers only ({error}); correct it'
                ) from error
    rates = [dict(iter=r['step'], lr=r['lr']) for r in records if 'lr' in r]
    other = {'lr', 'epoch', column.strip()} - {'step'}
    metrics = [{k: v for k, v in r.items() if k not in other} for r in records]
    return RunLog(path.stem, rates, sorted(metrics, key=lambda r: r['step']), None, [path])
