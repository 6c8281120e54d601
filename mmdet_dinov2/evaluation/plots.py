"""Tables and pictures of the quality of detections."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..drawing.fonts import fonts_for
from .matches import BACKGROUND, Confusions
from .quality import ClassQuality, DetectionQuality

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# With more classes, axes are not labelled and cells do not show numbers.
_MAX_NAMED = 40
_MAX_CURVES = 20
_COLUMNS = ('ap', 'ap_50', 'ap_75', 'ap_s', 'ap_m', 'ap_l', 'precision', 'recall', 'best_score')


def class_table(classes: Sequence[ClassQuality]) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows of a table of all classes; ``-`` where a number does not exist."""
    header = ['category', 'boxes', *(name.replace('ap', 'mAP') for name in _COLUMNS[:6])]
    header += ['precision', 'recall', 'at score']
    rows = [
        [entry.name, str(entry.num_boxes)] + [_number(getattr(entry, name)) for name in _COLUMNS]
        for entry in classes
    ]
    return header, rows


def confusion_table(
    confusions: Confusions, names: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows of the confusion matrix: a row for each true class."""
    labels = [*names, BACKGROUND]
    rows = [[label, *map(str, row)] for label, row in zip(labels, confusions.matrix, strict=True)]
    return ['true \\ detected', *labels], rows


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.3f}'


def draw_precision_recall(
    axes: Axes,
    recalls: np.ndarray,
    curves: np.ndarray,
    names: Sequence[str],
    max_named: int = _MAX_CURVES,
    in_points: bool = False,
) -> None:
    """Draws precision over recall.

    Args:
        axes: Where to draw.
        recalls: (R,) in 0..1.
        curves: Precision of every class, (C, R) in 0..1; -1 where a class has no box.
        names: Names of the classes.
        max_named: With more classes, only the mean has a name; the classes are thin lines.
        in_points: Whether AP is written in 0..100 instead of 0..1.
    """

    def ap(curve: np.ndarray) -> str:
        return f'AP {100 * curve.mean():.1f}' if in_points else f'AP {curve.mean():.3f}'

    from matplotlib import colormaps

    shown = [label for label in range(len(names)) if curves[label].max() >= 0]
    many = len(shown) > max_named
    colors = colormaps['viridis'](np.linspace(0, 0.9, max(len(shown), 1)))
    for color, label in zip(colors, shown, strict=False):
        text = None if many else f'{names[label]}, {ap(curves[label])}'
        width = 0.5 if many else 1.5
        axes.plot(recalls, curves[label], color=color, label=text, linewidth=width)
    if shown:
        mean = curves[shown].mean(0)
        axes.plot(recalls, mean, color='black', label=f'mean, {ap(mean)}', linewidth=2)
        axes.legend(fontsize=8)
    axes.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)


def precision_recall_figure(
    recalls: np.ndarray, curves: np.ndarray, names: Sequence[str]
) -> Figure:
    """Returns a figure of ``draw_precision_recall``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout='constrained')
    axes = figure.subplots()
    draw_precision_recall(axes, recalls, curves, names)
    axes.set_title('Precision and recall at IoU 0.5')
    return figure


def confusion_figure(confusions: Confusions, names: Sequence[str]) -> Figure:
    """Draws a confusion matrix, coloured by the share of each true class.

    Args:
        confusions: The counts.
        names: Names of the classes.
    """
    from matplotlib.figure import Figure

    labels = [*names, BACKGROUND]
    matrix, shares = confusions.matrix, confusions.shares
    side = min(4.5 + 0.35 * len(labels), 16)
    figure = Figure(figsize=(side + 1, side), layout='constrained')
    axes = figure.subplots()
    image = axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    figure.colorbar(image, label='share of the true class', shrink=0.8)
    if len(labels) <= _MAX_NAMED:
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha='right')
        axes.set_yticks(range(len(labels)), labels)
        for row, column in np.argwhere(matrix):
            color = 'white' if shares[row, column] > 0.5 else 'black'
            axes.text(
                column, row, matrix[row, column], ha='center', va='center', color=color, fontsize=8
            )
    axes.set(
        title=f'Confusions at score {confusions.score_thr:g}, IoU {confusions.iou_thr:g}',
        xlabel='detected class',
        ylabel='true class',
    )
    return figure


def class_ap_figure(classes: Sequence[ClassQuality], of: str = 'boxes') -> Figure:
    """Draws the average precision of every class that has boxes, best first.

    Args:
        classes: Results of the classes.
        of: What they are results of.
    """
    from matplotlib.figure import Figure

    ranked = sorted((c for c in classes if c.ap is not None), key=lambda c: c.ap)
    figure = Figure(figsize=(7, 1.5 + 0.25 * max(len(ranked), 1)), layout='constrained')
    axes = figure.subplots()
    positions = np.arange(len(ranked))
    axes.barh(positions, [c.ap_50 or 0.0 for c in ranked], color='0.8', label='IoU 0.5')
    axes.barh(positions, [c.ap for c in ranked], color='tab:blue', label='mean over IoU')
    axes.set_yticks(positions, [f'{c.name} ({c.num_boxes})' for c in ranked])
    axes.set(title=f'Average precision ({of})', xlabel='AP', xlim=(0, 1))
    if ranked:
        axes.legend(fontsize=8, loc='lower right')
    axes.grid(alpha=0.3, axis='x')
    return figure


def write_quality(quality: DetectionQuality, folder: str | Path) -> list[Path]:
    """Writes the results of an evaluation, over those of an earlier one.

    Args:
        quality: The results.
        folder: Where to write; created if it does not exist.

    Returns:
        The files: ``evaluation.json``, ``precision_recall.png``, ``confusion_matrix.png``,
        ``class_ap.png`` for boxes and ``class_ap_masks.png`` for masks.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = folder / 'evaluation.json'
    numbers.write_text(json.dumps(quality.to_json(), indent=1) + '\n')
    with fonts_for(quality.names):
        figures = {
            'precision_recall.png': precision_recall_figure(
                quality.recalls, quality.curves, quality.names
            ),
            'confusion_matrix.png': confusion_figure(quality.confusions, quality.names),
        }
        if quality.classes:
            figures['class_ap.png'] = class_ap_figure(quality.classes)
        if quality.mask_classes:
            figures['class_ap_masks.png'] = class_ap_figure(quality.mask_classes, 'masks')
        for name, figure in figures.items():
            figure.savefig(folder / name, dpi=120)
    return [numbers, *(folder / name for name in figures)]
