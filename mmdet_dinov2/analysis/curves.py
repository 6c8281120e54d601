"""Curves of one or more runs: losses, learning rate, AP, step time and memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from ..drawing.figures import save_figure
from ..engine.log.processor import summarize_losses
from ..errors import InputError
from ..runs.pseudo_labels import LOGGED
from ..runs.run_log import RunLog

X_AXES = ('steps', 'hours')
_LOSSES = ('loss', 'loss_cls', 'loss_bbox', 'loss_iou', 'loss_dn')
_LOSS_TITLES = {
    'loss': 'loss, sum of all terms',
    'loss_cls': 'classification loss',
    'loss_bbox': 'box loss (L1)',
    'loss_iou': 'box loss (IoU)',
    'loss_dn': 'denoising loss',
}
_MARKERS = {'-': 'o', '--': 's', ':': '^'}
_APS = {'': 'AP', '_50': 'AP 50', '_75': 'AP 75'}


@dataclass(frozen=True)
class Panel:
    """One logged quantity of several runs.

    Attributes:
        title: Name of the quantity.
        curves: The lines of each run, each of them steps and values of shape (N,); no lines for a
            run that did not log the quantity.
        log_scale: Whether the vertical axis is logarithmic.
    """

    title: str
    curves: list[list[tuple[np.ndarray, np.ndarray]]]
    log_scale: bool = False


def curve_panels(runs: Sequence[RunLog]) -> list[Panel]:
    """Returns a panel for each quantity that at least one of the runs logged."""
    panels = (*_loss_panels(runs), *_other_panels(runs))
    return [panel for panel in panels if any(panel.curves)]


def draw_panel(axes: Axes, panel: Panel, runs: Sequence[RunLog], x: str = 'steps') -> None:
    """Draws a panel; ``x`` is that of ``draw_curves``."""
    for run, color, lines in zip(runs, _colors(len(runs)), panel.curves, strict=True):
        for style, (steps, values) in zip(_MARKERS, lines, strict=False):
            where = run.hours(steps) if x == 'hours' else steps
            _line(axes, where, values, color, style)
    axes.set(title=panel.title, xlabel='hours of training' if x == 'hours' else 'optimizer step')
    axes.grid(alpha=0.3)
    if panel.log_scale:
        axes.set_yscale('log')
        axes.yaxis.set_major_formatter('{x:g}')
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.yaxis.set_minor_formatter('{x:g}')


def draw_curves(
    runs: Sequence[RunLog], path: str | Path, x: str = 'steps', title: str = ''
) -> None:
    """Draws what runs logged, with a panel for each quantity.

    Args:
        runs: The runs; runs with the same name are numbered.
        path: Picture file; its folder is created.
        x: 'steps' (optimizer steps) or 'hours' (of training, without evaluations).
        title: Heading of the picture.

    Raises:
        InputError: If nothing was logged or ``x`` is unknown.
    """
    if x not in X_AXES:
        raise InputError(f'x must be {" or ".join(X_AXES)}, got {x!r}')
    panels = curve_panels(runs)
    if not panels:
        raise InputError(f'{", ".join(run.name for run in runs)}: nothing was logged')
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.2 * rows + 0.4), layout='constrained')
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        draw_panel(axes, panel, runs, x)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    if len(runs) > 1:
        handles = [Line2D([], [], color=color) for color in _colors(len(runs))]
        figure.legend(handles, _names(runs), loc='outside lower center', ncols=min(4, len(runs)))
    if title:
        figure.suptitle(title)
    save_figure(figure, path, dpi=110)


def _line(axes: Axes, x: np.ndarray, y: np.ndarray, color, style: str) -> None:
    # A few points are evaluations, each of which counts; a single one would not make a line.
    marker = _MARKERS[style] if len(x) <= 40 else None
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


def _loss_panels(runs: Sequence[RunLog]) -> Iterator[Panel]:
    tables = [[(r['iter'], summarize_losses(r)) for r in run.training] for run in runs]
    for loss in _LOSSES:
        curves = []
        for table in tables:
            rows = [(step, values[loss]) for step, values in table if loss in values]
            array = np.array(rows, dtype=float).reshape(-1, 2)
            curves.append([(array[:, 0], array[:, 1])] if rows else [])
        yield Panel(_LOSS_TITLES[loss], curves)


def _other_panels(runs: Sequence[RunLog]) -> Iterator[Panel]:
    for kind, name in (('bbox', 'AP'), ('segm', 'mask AP')):
        yield Panel(
            f'{name} (dashed, square: AP 50; dotted, triangle: AP 75)',
            [_ap_lines(run, kind) for run in runs],
        )
    for key, name in (
        ('lr', 'learning rate'),
        ('time', 'seconds per step'),
        ('memory', 'memory (MiB)'),
        ('grad_norm', 'gradient norm'),
        (f'{LOGGED}photos', 'unlabeled photos with sure boxes (share)'),
        (f'{LOGGED}agreement', 'agreement of the teacher with labels (F1)'),
    ):
        curves = [run.series(key) for run in runs]
        lines = [[curve] if len(curve[0]) else [] for curve in curves]
        yield Panel(name, lines, _spans_decades(curves))


def _spans_decades(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> bool:
    values = np.concatenate([values for _, values in curves])
    return bool(len(values)) and values.min() > 0 and values.max() > 8 * values.min()


def _ap_lines(run: RunLog, kind: str) -> list[tuple[np.ndarray, np.ndarray]]:
    names = {name for record in run.evaluations for name in record}
    lines = []
    for suffix in _APS:
        name = next((n for n in sorted(names) if n.split('/')[-1] == f'{kind}_mAP{suffix}'), None)
        if name is not None:
            lines.append(run.ap_curve(name))
    # Step and one metric of any name.
    if kind == 'bbox' and not lines and run.evaluations and len(names) == 2:
        lines.append(run.ap_curve())
    return lines
