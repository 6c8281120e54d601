"""Compares what large datasets cost with mmdet's: start, memory, check, order, resume, scoring."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...config.files import find_config
from ...errors import InputError
from .. import scale_cases, watched
from ..isolated import CaseError
from ..scale_data import COCO_IMAGES, LOGGED_STEPS, ScaleData, make_scale_data, write_config
from ..settings import Settings
from ..tables import NOT_MEASURED, BenchmarkReport, Table
from .project_configs import QUICKSTART, TINY_OPTIONS

# So few images that reading them costs nothing: what remains is the start of a program.
SMALL = 200
PROCESSES, WORKERS = 4, 2
BATCH_SIZE = 8
DETECTIONS = 300
OURS, MMDET = 'ours', 'mmdet'
_OPTIONS = {
    **TINY_OPTIONS,
    'model.neck.in_channels': TINY_OPTIONS['model.backbone.arch.embed_dims'],
    'model.num_queries': 20,
    'model.dn_cfg.group_cfg.num_dn_queries': 10,
    'train_dataloader.dataset.pipeline.3.scales': [(84, 84)],
}

_COLUMNS = ('images', 'measured', OURS, MMDET, 'ratio', 'limit')
_START = 'command to the 10th step, s'
_RESUME = 'the same, resumed in the middle of an epoch, s'
_CHECK = 'check of the annotations, s'
_ORDER = 'order of an epoch, s'
_SCORING = f'scoring of the validation images, {DETECTIONS} detections each, s'
_PICTURES = 'the same, with tables and pictures of every class, s'
_AP = 'AP of these'
# By the number of images.
_LIMITS = {
    COCO_IMAGES: {_START: 15, _CHECK: 8, _SCORING: 4},
    10 * COCO_IMAGES: {_START: 60, _RESUME: 60},
}


def _peak_of(processes: int) -> str:
    return f'most memory until then, all of {processes} training processes, MiB'


def _memory_of(processes: int) -> str:
    return f'memory for annotations then, all of {processes} training processes, MiB'


_LIMITS[COCO_IMAGES][_memory_of(PROCESSES)] = 1024
_LIMITS[10 * COCO_IMAGES][_peak_of(PROCESSES)] = 8192


def scale(report: BenchmarkReport, settings: Settings) -> None:
    """Measures datasets of --images images: start, memory, check, order, resume, scoring."""
    if settings.images and min(settings.images) <= SMALL:
        raise InputError(
            f'--images must be above {SMALL}, with which they are compared, but is '
            f'{min(settings.images)}'
        )
    sizes = [SMALL] if settings.dry_run else [SMALL, *sorted(settings.images)]
    table = report.table(
        "Datasets of many images, beside mmdet's CocoDataset and CocoMetric",
        _COLUMNS,
        [
            f'boxes as many as in COCO, links to photos; a tiny model, batches of {BATCH_SIZE}, '
            f'{WORKERS} loading processes for each training process; at most 5000 validation '
            'images, else in the proportion of COCO',
            'memory: sum of the proportional set sizes of all processes; for annotations: what is '
            f'above {SMALL} images, whose row has all of it',
        ],
    )
    found: dict[int, Figures] = {}
    for size in sizes:
        data = make_scale_data(report.path.parent / 'scale', size, settings.seed)
        small = found.get(SMALL, {})
        found[size] = _Measurement(report, table, settings, data, small).run()
    add_growth(report, found)


# Figures by what is measured and of whom.
Figures = dict[tuple[str, str], float]


class _Measurement:
    """Measures a dataset, a row for each figure.

    Args:
        report: Where the rows go.
        table: Their table.
        settings: Settings of the suite.
        data: The dataset.
        small: Figures of the small dataset.
    """

    def __init__(
        self,
        report: BenchmarkReport,
        table: Table,
        settings: Settings,
        data: ScaleData,
        small: Figures,
    ) -> None:
        self._report = report
        self._table = table
        self._settings = settings
        self._data = data
        self._small = small
        self._workers = 0 if settings.dry_run else WORKERS
        self._figures: Figures = {}

    def run(self) -> Figures:
        """Adds all rows; returns the figures."""
        self._measure_starts()
        checked = self._case(scale_cases.check, config=self._config(OURS))
        self._add(_CHECK, checked, {OURS: 'seconds'}, mmdet='has none')
        order = self._case(
            scale_cases.epoch_order,
            num_images=self._data.num_images,
            batch_size=BATCH_SIZE,
            seed=self._settings.seed,
        )
        self._add(_ORDER, order, {OURS: OURS, MMDET: MMDET})
        scores = {who: self._score(who) for who in (OURS, MMDET)}
        self._add_each(_SCORING, scores, 'seconds')
        pictures = self._score(OURS, str(self._data.folder.parent / 'evaluation'))
        self._add(_PICTURES, pictures, {OURS: 'seconds'}, mmdet='makes none')
        self._add_each(_AP, scores, 'ap')
        return self._figures

    def _score(self, who: str, folder: str = '') -> dict | str:
        return self._case(
            scale_cases.scoring,
            ann_file=str(self._data.annotations('val')),
            classes=self._data.classes,
            per_image=DETECTIONS,
            peer=who == MMDET,
            seed=self._settings.seed,
            folder=folder,
        )

    def _measure_starts(self) -> None:
        alone = {who: self._start(who, 1) for who in (OURS, MMDET)}
        self._add_each(_START, alone, 'seconds')
        self._add(_RESUME, self._resume(), {OURS: 'seconds'}, mmdet='starts the epoch again')
        runs = {1: alone}
        if not self._settings.dry_run:
            runs[PROCESSES] = {who: self._start(who, PROCESSES) for who in (OURS, MMDET)}
        for processes, starts in runs.items():
            self._add_each(_peak_of(processes), starts, 'peak_mib')
            self._add_each(_memory_of(processes), starts, 'mib', above_small=True)

    def _config(self, who: str) -> str:
        path = self._data.folder.parent / f'{self._data.folder.name}_{who}.py'
        base = find_config(QUICKSTART)
        write_config(self._data, path, base, BATCH_SIZE, self._workers, peer=who == MMDET)
        return str(path)

    def _work_dir(self, who: str, processes: int) -> Path:
        return self._data.folder.parent / f'run_{who}_{processes}'

    def _start(self, who: str, processes: int) -> dict | str:
        folder = self._work_dir(who, processes)
        shutil.rmtree(folder, ignore_errors=True)
        # The check would read the annotations that mmdet's dataset reads again.
        return self._watch(who, processes, *['--no-preflight'] * (who == MMDET))

    def _resume(self) -> dict | str:
        checkpoint = self._work_dir(OURS, 1) / 'stopped.pth'
        if not checkpoint.exists():
            return f'{NOT_MEASURED}: the run left no checkpoint'
        scale_cases.move_to_middle(str(checkpoint), self._data.num_images, BATCH_SIZE, LOGGED_STEPS)
        return self._watch(OURS, 1, '--resume', str(checkpoint))

    def _watch(self, who: str, processes: int, *arguments: str) -> dict | str:
        options = [f'{name}={value}' for name, value in _OPTIONS.items()]
        command = [self._config(who), '--work-dir', str(self._work_dir(who, processes))]
        command += [*arguments, '--cfg-options', *options]
        try:
            return vars(watched.watch_training(command, processes, self._settings.time_limit))
        except CaseError as error:
            return f'{NOT_MEASURED}: {error}'

    def _case(self, function: Callable[..., dict], **kwargs: Any) -> dict | str:
        try:
            return self._settings.run_case(function, self._settings.time_limit, **kwargs)
        except CaseError as error:
            return f'{NOT_MEASURED}: {error}'

    def _add_each(
        self, measured: str, found: Mapping[str, dict | str], key: str, above_small: bool = False
    ) -> None:
        cells = {who: part if isinstance(part, str) else part[key] for who, part in found.items()}
        self._add_row(measured, cells, above_small)

    def _add(self, measured: str, found: dict | str, keys: Mapping[str, str], **cells: str) -> None:
        for who, key in keys.items():
            cells[who] = found if isinstance(found, str) else found[key]
        self._add_row(measured, cells)

    def _add_row(
        self, measured: str, cells: Mapping[str, float | str], above_small: bool = False
    ) -> None:
        row: dict[str, Any] = {'images': str(self._data.num_images), 'measured': measured}
        for who, cell in cells.items():
            row[who] = cell
            if isinstance(cell, float):
                self._figures[measured, who] = cell
                if above_small:
                    row[who] = cell - self._small.get((measured, who), 0.0)
        if isinstance(row[OURS], float) and isinstance(row[MMDET], float) and row[MMDET] > 0:
            row['ratio'] = row[OURS] / row[MMDET]
        limit = _LIMITS.get(self._data.num_images, {}).get(measured)
        row['limit'] = limit and f'<= {limit}'
        self._report.add(self._table, row)


def add_growth(report: BenchmarkReport, found: Mapping[int, Figures]) -> None:
    """Adds a table of how what is above the small dataset grows with the number of images."""
    small, *sizes = found
    if len(sizes) < 2:
        return
    table = report.table(
        'Growth with the number of images',
        ('measured', 'from', 'to', OURS, MMDET),
        [f'exponent of the growth of what is above {SMALL} images: 1 is linear, 2 quadratic'],
    )
    for first, second in zip(sizes, sizes[1:], strict=False):
        for measured in dict.fromkeys(name for name, _ in found[first]):
            # Of validation images there are never more than COCO has.
            if measured in (_SCORING, _PICTURES, _AP):
                continue
            row: dict[str, Any] = {'measured': measured, 'from': str(first), 'to': str(second)}
            for who in (OURS, MMDET):
                values = [found[size].get((measured, who)) for size in (small, first, second)]
                if None not in values and min(values[1:]) > values[0]:
                    growth = (values[2] - values[0]) / (values[1] - values[0])
                    row[who] = math.log(growth) / math.log(second / first)
            report.add(table, row)
