"""One page about a run: what it was, how it went, what it found."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.coco_file import CocoFile
from ..errors import InputError
from . import detection_stats as stats
from .box_pictures import draw_boxes
from .config_diff import diff, nearest_config
from .curves import curve_panels, draw_panel
from .forecast import describe_fits, describe_gain, draw_forecast_axes, make_forecast
from .lr_drop import describe_prior
from .run_log import RunLog
from .saved_config import planned_drops, planned_end

_TEMPLATE = 'report.html.j2'
# A table of more classes cannot be read; the most frequent confusions say it then.
_MAX_MATRIX = 20


@dataclass
class ReportInput:
    """All that a report can be made of; what is missing is None, and the page says so.

    Attributes:
        run: Log of the run.
        config: Resolved config.
        config_path: Where it was read.
        base: Name and settings of the config to compare with; the nearest one if None.
        environment: Lines 'name: value' of the log.
        annotations: Annotations of the validation split.
        image_folder: Folder of its images.
        predictions: Predictions in COCO's format.
        predictions_from: Where they come from.
        problems: What could not be read, as sentences.
    """

    run: RunLog
    config: Mapping[str, Any] | None = None
    config_path: Path | None = None
    base: tuple[str, Mapping[str, Any]] | None = None
    environment: Sequence[tuple[str, str]] = ()
    annotations: CocoFile | None = None
    image_folder: str | None = None
    predictions: list[dict[str, Any]] | None = None
    predictions_from: str = ''
    problems: Sequence[str] = ()


def render_report(given: ReportInput) -> str:
    """The page as HTML that needs no other file."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('mmdet_dinov2.analysis', '.'),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters['points'] = _points
    return environment.get_template(_TEMPLATE).render(
        name=given.run.name,
        made=datetime.now().strftime('%Y-%m-%d %H:%M'),
        problems=list(given.problems),
        summary=_summary(given),
        config=_config(given),
        environment=list(given.environment),
        curves=_curves(given.run),
        forecast=_forecast(given),
        detection=_detection(given),
    )


def _points(value: float) -> str:
    """AP with one decimal, a dash where it is not defined."""
    return '–' if math.isnan(value) else f'{value:.1f}'


def read_environment(run: RunLog) -> list[tuple[str, str]]:
    """The environment that MMEngine writes at the start of the log of the last part of a run."""
    if not run.files or run.files[-1].name != 'scalars.json':
        return []
    logs = sorted(run.files[-1].parents[1].glob('*.log'))
    rows: list[tuple[str, str]] = []
    inside = False
    for line in logs[-1].read_text(encoding='utf-8', errors='replace').splitlines() if logs else ():
        if line.startswith('System environment:'):
            inside = True
        elif line.startswith('Runtime environment:') or (inside and line.startswith('-----')):
            break
        elif inside and ': ' in line:
            key, _, value = line.strip().partition(': ')
            rows.append((key, value.strip()))
    return rows


def _summary(given: ReportInput) -> list[tuple[str, str]]:
    run = given.run
    rows: list[tuple[str, str]] = []
    if run.evaluations:
        try:
            steps, ap = run.ap_curve()
            best = int(ap.argmax())
            rows += [
                ('best AP', f'{ap[best]:.1f} at step {steps[best]:.0f}'),
                ('last AP', f'{ap[-1]:.1f} at step {steps[-1]:.0f}'),
            ]
        except (InputError, ValueError):  # another metric, or only undefined values
            pass
    if run.training:
        last = run.training[-1]['iter']
        epochs = f' ({last / run.epoch_length:.4g} epochs)' if run.epoch_length else ''
        rows.append(('steps', f'{last}{epochs}'))
        if len(run.series('time')[0]):
            rows.append(('hours of training', f'{float(run.hours(np.array(last))):.2f}'))
    if len(run.files) > 1:
        rows.append(('parts', f'{len(run.files)}, joined'))
    return rows


def _config(given: ReportInput) -> dict[str, Any] | None:
    if given.config is None:
        return None
    if given.base is not None:
        name, rows = given.base[0], diff(given.base[1], given.config)
    else:
        nearest = nearest_config(given.config)
        name, rows = nearest if nearest else ('', [])
    text = given.config_path.read_text(encoding='utf-8') if given.config_path else ''
    return dict(base=name, rows=rows, path=str(given.config_path or ''), text=text)


def _svg(draw, width: float, height: float, label: str) -> Markup:
    """A plot as inline SVG whose black follows the colour of the text around it."""
    # Names come from files: no formulas in them. Text stays text, which is small and can be found.
    with rc_context({'svg.fonttype': 'none', 'text.parse_math': False, 'font.size': 9}):
        figure = Figure(figsize=(width, height), layout='constrained')
        axes = figure.subplots()
        draw(axes)
        figure.patch.set_alpha(0)
        axes.patch.set_alpha(0)
        legend = axes.get_legend()
        if legend is not None:
            legend.get_frame().set_alpha(0)
        buffer = io.BytesIO()
        figure.savefig(buffer, format='svg', metadata={'Date': None})
    text = buffer.getvalue().decode()
    text = text[text.index('<svg') :].replace('#000000', 'currentColor')
    text = text.replace('<text style="', '<text style="fill: currentColor; ')
    # matplotlib escapes text; the label goes into an attribute.
    label = Markup.escape(label)
    return Markup(text.replace('<svg ', f'<svg role="img" aria-label="{label}" ', 1))


def _curves(run: RunLog) -> list[Markup]:
    def drawer(panel):
        return lambda axes: draw_panel(axes, panel, [run])

    return [
        _svg(drawer(panel), 4.4, 3.0, f'Curve: {panel.title} over optimizer steps')
        for panel in curve_panels([run])
    ]


def _forecast(given: ReportInput) -> dict[str, Any]:
    run, config = given.run, given.config or {}
    try:
        steps, ap = run.ap_curve()
        drops = run.lr_drops() or planned_drops(config, run.epoch_length)
        forecast = make_forecast(steps, ap, drops[0] if drops else None)
    except InputError as error:
        return dict(missing=str(error))
    end = planned_end(config, run.epoch_length)
    marks = sorted({int(end or steps[-1]), int(2 * (end or steps[-1]))})
    predictions = [forecast.at(mark) for mark in marks]
    details = describe_fits(forecast)
    if forecast.gain is not None:
        details += f'\n{describe_gain(forecast)}\n{describe_prior()}'
    picture = _svg(
        lambda axes: draw_forecast_axes(axes, forecast, predictions), 5.6, 3.7,
        'Evaluations, fitted curve and its 95 % band',
    )  # fmt: skip
    return dict(picture=picture, predictions=predictions, details=details)


def _detection(given: ReportInput) -> dict[str, Any] | None:
    if given.predictions is None or given.annotations is None:
        return None
    coco = given.annotations
    names = coco.category_names
    scores = stats.coco_scores(coco, given.predictions)
    matches = stats.match_images(coco, given.predictions)
    matrix = stats.confusion_matrix(matches, [c['id'] for c in coco.categories])
    order = np.argsort(-np.nan_to_num(scores.class_ap, nan=-1.0), kind='stable')
    best, worst = stats.best_and_worst(matches)
    return dict(
        source=given.predictions_from,
        num_images=len(coco.images),
        threshold=stats.SCORE_THRESHOLD,
        iou=stats.IOU_THRESHOLD,
        table=scores.table,
        classes=[
            (names[i], scores.class_ap[i], scores.class_ap50[i], int(scores.class_boxes[i]))
            for i in order
        ],
        precision_recall=_svg(
            lambda axes: _draw_precision_recall(axes, scores), 5, 3.4,
            'Precision over recall at an IoU of 0.5, mean over the classes',
        ),
        sizes=[
            (name, count, scores.table[3 + i][1], scores.table[9 + i][1])
            for i, (name, count) in enumerate(zip(stats.SIZES, scores.size_boxes, strict=True))
        ],
        matrix=_matrix(matrix, names),
        confusions=_confusions(matrix, names),
        images=[
            dict(title='Best images', items=_pictures(best, given)),
            dict(title='Worst images', items=_pictures(worst, given)),
        ],
    )  # fmt: skip


def _draw_precision_recall(axes: Axes, scores: stats.CocoScores) -> None:
    axes.plot(scores.recall, scores.precision, color='C0')
    axes.fill_between(scores.recall, scores.precision, color='C0', alpha=0.15, lw=0)
    axes.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)


def _matrix(matrix: np.ndarray, names: Sequence[str]) -> dict[str, Any] | None:
    if len(names) > _MAX_MATRIX:
        return None
    rows = []
    for name, counts in zip([*names, 'nothing'], matrix, strict=True):
        total = max(int(counts.sum()), 1)
        rows.append((name, [(int(count), round(float(count) / total, 2)) for count in counts]))
    return dict(columns=[*names, 'nothing'], rows=rows)


def _confusions(matrix: np.ndarray, names: Sequence[str], count: int = 10) -> list[tuple]:
    """The most frequent entries outside the diagonal: count, class, found as."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    labels = [*names, 'nothing']
    rows, columns = np.unravel_index(np.argsort(-wrong, axis=None, kind='stable'), wrong.shape)
    return [
        (int(wrong[r, c]), labels[r], labels[c])
        for r, c in list(zip(rows, columns, strict=True))[:count]
        if wrong[r, c]
    ]


def _pictures(matches: Sequence[stats.ImageMatch], given: ReportInput) -> list[dict[str, Any]]:
    items = []
    names = {c['id']: c['name'] for c in given.annotations.categories}
    for match in matches:
        file_name = str(match.image['file_name'])
        item = dict(
            name=file_name,
            note=f'{match.num_correct} of {len(match.truth)} boxes found, '
            f'{len(match.found)} predictions, F1 {match.f1:.2f}',
            pictures=[],
        )
        try:
            path = Path(given.image_folder or '') / file_name
            for what, boxes in (('ground truth', match.truth), ('predictions', match.found)):
                picture = base64.b64encode(draw_boxes(path, boxes, names)).decode()
                item['pictures'].append((what, f'data:image/jpeg;base64,{picture}'))
        except (OSError, ValueError) as error:
            item['note'] += f'; the picture cannot be shown ({error})'
        items.append(item)
    return items
