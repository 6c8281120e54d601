"""One HTML page about a run: its settings, its curves and its predictions."""

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
from matplotlib.figure import Figure

from ..data.annotation_columns import AnnotationColumns
from ..data.coco_file import leaves_folder
from ..data.image_file import read_image
from ..data.tiled_loading import DecodedImage, open_in_parts
from ..drawing.box_pictures import draw_small
from ..errors import InputError
from ..evaluation.coco_evaluation import (
    AREAS,
    coco_table,
    count_sizes,
    evaluate_boxes,
    table_detections,
)
from ..evaluation.evaluated_boxes import EvaluatedBoxes, boxes_of_files
from ..evaluation.matches import (
    BACKGROUND,
    Confusions,
    ImageMatch,
    Matches,
    best_and_worst,
    match_boxes,
)
from ..evaluation.plots import draw_precision_recall
from ..evaluation.quality import ClassQuality, measure_quality
from ..large_image import LargeImage
from ..runs.forecast import describe_fits, describe_gain, make_forecast
from ..runs.lr_drop import describe_prior
from ..runs.pseudo_labels import last_pseudo_labels
from ..runs.run_log import RunLog
from ..runs.saved_config import planned_drops, planned_end
from .config_diff import diff, nearest_config
from .crops import crop_around, shifted
from .curves import curve_panels, draw_panel
from .false_masks import draw_false_mask, worst_false_masks
from .forecast_picture import draw_forecast_axes

_TEMPLATE = 'report.html.j2'
# A matrix of more classes cannot be read; the list of the most frequent confusions remains.
_MAX_MATRIX = 20
_NUM_CONFUSIONS = 10
_NUM_FALSE_MASKS = 6
# The legend of more curves would cover them.
_MAX_CURVES = 6
_SIZES = ('small, below 32 x 32 px', 'medium', 'large, from 96 x 96 px')


@dataclass
class ReportInput:
    """Everything that a report can show; a missing part is None, and the page says so.

    Attributes:
        run: Log of the run.
        config: Resolved config.
        config_path: File of that config.
        base: Name and settings of the config to compare with; None takes the nearest one.
        environment: Names and values of the environment, from the log.
        annotations: Annotations of the images that scores are measured on.
        image_folder: Folder of these images.
        scored_on: What these images are.
        predictions: Predictions in COCO's result format.
        predictions_from: Source of the predictions.
        problems: A sentence for each part that could not be read.
    """

    run: RunLog
    config: Mapping[str, Any] | None = None
    config_path: Path | None = None
    base: tuple[str, Mapping[str, Any]] | None = None
    environment: Sequence[tuple[str, str]] = ()
    annotations: AnnotationColumns | None = None
    image_folder: str | None = None
    scored_on: str = 'Validation split'
    predictions: list[dict[str, Any]] | None = None
    predictions_from: str = ''
    problems: Sequence[str] = ()


def render_report(given: ReportInput) -> str:
    """Returns the page as HTML that does not need any other file."""
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
        pseudo=last_pseudo_labels(given.run),
        detection=_detection(given),
    )


def _points(value: float) -> str:
    """Words AP with one decimal, a dash where it is not defined."""
    return '–' if math.isnan(value) else f'{value:.1f}'


def read_environment(run: RunLog) -> list[tuple[str, str]]:
    """Returns the environment in the log of the last part of a run, as MMEngine writes it."""
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
        except (InputError, ValueError):  # a different metric, or only undefined values
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
    """Draws a plot as inline SVG, with black replaced by the text colour of the page."""
    # Names come from files and are not formulas. Text stays text, which is small and searchable.
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
    # matplotlib escapes its texts, but the label becomes an attribute.
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
    boxes = boxes_of_files(coco, given.predictions)
    max_detections = table_detections(boxes)
    evaluation = evaluate_boxes(boxes, len(names), max_detections=max_detections)
    quality = measure_quality(boxes, evaluation, names)
    matches = match_boxes(boxes)
    best, worst = best_and_worst(matches)
    table = [(key, _to_points(value)) for key, value in coco_table(evaluation, max_detections)]
    of_area = dict(table)
    return dict(
        source=given.predictions_from,
        scored_on=given.scored_on,
        num_images=quality.num_images,
        threshold=quality.confusions.score_thr,
        iou=quality.confusions.iou_thr,
        table=table,
        classes=_classes(quality.classes),
        precision_recall=_svg(
            lambda axes: draw_precision_recall(
                axes, quality.recalls, quality.curves, [name[:24] for name in names], _MAX_CURVES,
                in_points=True,
            ),
            5, 3.4, 'Precision over recall at an IoU of 0.5, classes and their mean',
        ),
        sizes=[
            (name, count, of_area[f'AP, {area}'], of_area[f'AR, {area}'])
            for name, area, count in zip(_SIZES, AREAS[1:], count_sizes(boxes), strict=True)
        ],
        matrix=_matrix(quality.confusions, names),
        confusions=_confusions(quality.confusions, names),
        images=[
            dict(title='Best images', items=_pictures(best, matches, given)),
            dict(title='Worst images', items=_pictures(worst, matches, given)),
        ],
        masks=_masks(boxes, given) if boxes.has_masks else None,
    )  # fmt: skip


def _masks(boxes: EvaluatedBoxes, given: ReportInput) -> dict[str, Any]:
    """Returns the scores of masks, and the worst false ones."""
    names = given.annotations.category_names
    max_detections = table_detections(boxes)
    evaluation = evaluate_boxes(boxes, len(names), max_detections=max_detections, by_masks=True)
    quality = measure_quality(boxes, None, names, masks=evaluation)
    table = coco_table(evaluation, max_detections)
    objects = ~boxes.true.crowd
    return dict(
        table=[(key, _to_points(value)) for key, value in table],
        classes=_classes(quality.mask_classes),
        num_unknown=int((objects & ~boxes.true.known).sum()),
        num_objects=int(objects.sum()),
        false=_false_masks(boxes, given),
    )


def _false_masks(boxes: EvaluatedBoxes, given: ReportInput) -> list[dict[str, Any]]:
    coco, found = given.annotations, boxes.found
    names = dict(enumerate(coco.category_names))
    items = []
    for false in worst_false_masks(boxes, _NUM_FALSE_MASKS):
        image, name = coco.image(false.image), names[int(found.labels[false.detection])]
        fits = (
            f'overlaps the nearest {name} with an IoU of {false.overlap:.2f}'
            if false.overlap
            else f'overlaps no {name}'
        )
        note = f'{name} with a score of {found.scores[false.detection]:.2f}, {fits}'
        item = dict(name=str(image['file_name']), note=note, pictures=[])
        try:
            opened = _open_picture(given.image_folder or '', image)
            drawn = draw_false_mask(opened, boxes, false, names)
            item['pictures'] = [(what, _inline(picture)) for what, picture in drawn]
        except (OSError, ValueError) as error:
            item['note'] += f'; the image cannot be shown ({error})'
        items.append(item)
    return items


def _inline(picture: bytes) -> str:
    """Returns a JPEG file as the address of a picture within the page."""
    return f'data:image/jpeg;base64,{base64.b64encode(picture).decode()}'


def _to_points(value: float | None) -> float:
    """Turns a score of 0 to 1 into points; NaN if it is undefined."""
    return math.nan if value is None or value < 0 else 100 * value


def _classes(classes: Sequence[ClassQuality]) -> list[tuple[str, float, float, int]]:
    """Returns name, AP, AP at an IoU of 0.5 and number of boxes, the best class first."""
    ranked = sorted(classes, key=lambda c: -1.0 if c.ap is None else c.ap, reverse=True)
    return [(c.name, _to_points(c.ap), _to_points(c.ap_50), c.num_boxes) for c in ranked]


def _matrix(confusions: Confusions, names: Sequence[str]) -> dict[str, Any] | None:
    if len(names) > _MAX_MATRIX:
        return None
    labels = [*names, BACKGROUND]
    cells = [
        list(zip(counts, shares, strict=True))
        for counts, shares in zip(
            confusions.matrix.tolist(), confusions.shares.tolist(), strict=True
        )
    ]
    return dict(columns=labels, rows=list(zip(labels, cells, strict=True)))


def _confusions(
    confusions: Confusions, names: Sequence[str]
) -> list[tuple[int, str | None, str | None]]:
    """Returns the most frequent confusions: count, class, predicted class; None is background."""
    labels = [*names, None]
    return [
        (count, labels[row], labels[column])
        for count, row, column in confusions.most_frequent(_NUM_CONFUSIONS)
    ]


def _match_note(match: ImageMatch, f1: float) -> str:
    """Words what was found in an image."""
    counts = {
        'correct': len(match.correct),
        'of a different class': len(match.pairs) - len(match.correct),
        'on a box that already has one': len(match.repeated),
        'on background': len(match.surplus) - len(match.repeated),
    }
    kinds = ', '.join(f'{count} {kind}' for kind, count in counts.items() if count)
    found = f'{len(match.correct)} of {match.num_boxes} boxes found'
    predictions = f'{len(match.detections)} predictions' + (f' ({kinds})' if kinds else '')
    return f'{found}, {predictions}, F1 {f1:.2f}'


def _pictures(chosen: Sequence[int], matches: Matches, given: ReportInput) -> list[dict[str, Any]]:
    items = []
    coco, names = given.annotations, {c['id']: c['name'] for c in given.annotations.categories}
    f1 = matches.f1()
    for index in chosen:
        match, image = matches.of_image(index), coco.image(index)
        # In the order of the files, as they were matched.
        places = coco.annotations_of(index)
        truth = coco.annotations(places[coco.category_index[places] >= 0])
        found = [p for p in given.predictions if p['image_id'] == image['id']]
        if matches.boxes.has_masks:
            masks = matches.boxes.true.masks
            own = np.flatnonzero(matches.boxes.true.images == index).tolist()
            truth = [dict(a, mask=masks[i]) for a, i in zip(truth, own, strict=True)]
            found = [dict(p, mask=p['segmentation']) for p in found]
        boxes = [index for index, a in enumerate(truth) if not a.get('iscrowd')]
        confused = set(match.pairs) - set(match.correct)
        not_found = {*match.missed, *(box for box, _ in confused)}
        wrong = {*match.surplus, *(index for _, index in confused)}
        file_name = str(image['file_name'])
        item = dict(name=file_name, note=_match_note(match, f1[index]), pictures=[])
        try:
            pixels = _open_picture(given.image_folder or '', image)
            mistakes = [truth[i]['bbox'] for i in not_found] + [found[i]['bbox'] for i in wrong]
            height, width = pixels.shape
            crop = crop_around(mistakes or [truth[i]['bbox'] for i in boxes], width, height)
            if crop is not None:
                x1, y1, x2, y2 = crop
                item['note'] += f'; shown is x {x1} to {x2}, y {y1} to {y2}'
            whole = (0, 0, width, height)
            part = pixels.read(*(crop or whole))
            for what, entries, shown, broken in (
                ('ground truth', truth, boxes, not_found),
                ('predictions', found, match.detections, wrong),
            ):
                drawn = [(shifted(entries[i], crop or whole), i in broken) for i in shown]
                drawn = [(entry, dashed) for entry, dashed in drawn if entry is not None]
                picture = draw_small(
                    part,
                    [entry for entry, _ in drawn],
                    names,
                    dashed=[dashed for _, dashed in drawn],
                )
                item['pictures'].append((what, _inline(picture)))
        except (OSError, ValueError) as error:
            item['note'] += f'; the image cannot be shown ({error})'
        items.append(item)
    return items


def _open_picture(folder: str, image: Mapping[str, Any]) -> LargeImage:
    """Opens an image of an annotation file in the orientation of its boxes."""
    name = str(image['file_name'])
    if leaves_folder(folder, name):
        raise InputError(f'{name} lies outside the image folder {folder}')
    path = Path(folder) / name
    return open_in_parts(path) or DecodedImage(read_image(path, (image['width'], image['height'])))
