"""Curves of runs: losses, learning rate, AP, step time and memory, several runs over each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..engine.log_processor import summarize_losses
from ..errors import InputError
from .run_log import RunLog

X_AXES = ('steps', 'hours')
_LOSSES = ('loss', 'loss_cls', 'loss_bbox', 'loss_iou', 'loss_dn')
_LOSS_TITLES = {
    'loss': 'loss, sum of all terms',
    'loss_cls': 'classification loss',
    'loss_bbox': 'box loss (L1)',
    'loss_iou': 'box loss (IoU)',
    'loss_dn': 'denoising loss',
}
_APS = {'': 'AP', '_50': 'AP 50', '_75': 'AP 75'}


def draw_curves(
    runs: Sequence[RunLog], path: str | Path | object, x: str = 'steps', title: str = ''
) -> None:
    """Draws what the runs have logged, a panel for each quantity.

    Args:
        runs: The runs; those of equal names are numbered.
        path: Picture file, whose folder is made, or an open binary file, which becomes an SVG.
        x: 'steps' (optimizer steps) or 'hours' (of training, without evaluations).
        title: Heading of the picture.

    Raises:
        InputError: If nothing was logged, or ``x`` is unknown.
    """
    if x not in X_AXES:
        raise InputError(f'x must be {" or ".join(X_AXES)}, got {x!r}')
    panels = [panel for panel in (*_loss_panels(runs), *_other_panels(runs)) if any(panel[1])]
    if not panels:
        raise InputError(f'{", ".join(run.name for run in runs)}: nothing was logged yet')
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.2 * rows + 0.4), layout='constrained')
    grid = figure.subplots(rows, columns, squeeze=False)
    colors = _colors(len(runs))
    for axes, (name, curves, log_scale) in zip(grid.flat, panels, strict=False):
        for run, color, lines in zip(runs, colors, curves, strict=True):
            for style, (steps, values) in zip(('-', '--', ':'), lines, strict=False):
                where = run.hours(steps) if x == 'hours' else steps
                _line(axes, where, values, color, style)
        axes.set(title=name, xlabel='hours of training' if x == 'hours' else 'optimizer step')
        axes.grid(alpha=0.3)
        if log_scale:
            axes.set_yscale('log')
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    if len(runs) > 1:
        handles = [Axes.plot(grid.flat[0], [], [], color=color)[0] for color in colors]
        figure.legend(handles, _names(runs), loc='outside lower center', ncols=min(4, len(runs)))
    if title:
        figure.suptitle(title)
    if isinstance(path, (str, Path)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    else:
        figure.savefig(path, format='svg')


def _line(axes: Axes, x: np.ndarray, y: np.ndarray, color, style: str) -> None:
    # A few points are evaluations of which each counts; a single one would be no line at all.
    marker = 'o' if len(x) <= 40 else None
    axes.plot(x, y, style, color=color, marker=marker, ms=3, lw=1.2)


def _colors(count: int) -> list:
    if count <= 10:
        return [f'C{i}' for i in range(count)]
    return list(colormaps['viridis'](np.linspace(0, 0.9, count)))


def _names(runs: Sequence[RunLog]) -> list[str]:
    names = [run.name for run in runs]
    return [
        f'{name} ({names[: i + 1].count(name)})' if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]


def _loss_panels(runs: Sequence[RunLog]):
    tables = [[(r['iter'], summarize_losses(r)) for r in run.training] for run in runs]
    for loss in _LOSSES:
        curves = []
        for table in tables:
            rows = [(step, values[loss]) for step, values in table if loss in values]
            array = np.array(rows, dtype=float).reshape(-1, 2)
            curves.append([(array[:, 0], array[:, 1])] if rows else [])
        yield _LOSS_TITLES[loss], curves, False


def _other_panels(runs: Sequence[RunLog]):
    yield 'AP (dashed AP 50, dotted AP 75)', [_ap_lines(run) for run in runs], False
    for key, name in (
        ('lr', 'learning rate'),
        ('time', 'seconds per step'),
        ('memory', 'memory (MiB)'),
        ('grad_norm', 'gradient norm'),
    ):
        curves = [run.series(key) for run in runs]
        lines = [[curve] if len(curve[0]) else [] for curve in curves]
        yield name, lines, _spans_decades(curves)


def _spans_decades(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> bool:
    values = np.concatenate([values for _, values in curves])
    return bool(len(values)) and values.min() > 0 and values.max() > 8 * values.min()


def _ap_lines(run: RunLog) -> list[tuple[np.ndarray, np.ndarray]]:
    names = {name for record in run.evaluations for name in record}
    lines = []
    for suffix in _APS:
        name = next((n for n in sorted(names) if n.split('/')[-1] == f'bbox_mAP{suffix}'), None)
        if name is not None:
            lines.append(run.ap_curve(name))
    if not lines and run.evaluations and len(names) == 2:  # step and one metric of any name
        lines.append(run.ap_curve())
    return lines
