"""Pictures of forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..drawing.figures import save_figure
from ..runs.forecast import Forecast, Prediction


def draw_forecast(
    forecast: Forecast,
    predictions: Sequence[Prediction],
    path: str | Path,
    title: str,
) -> None:
    """Draws the evaluations, the fitted curve and its 95 % band.

    Args:
        forecast: The forecast.
        predictions: Predictions to mark.
        path: Picture file; its folder is created.
        title: Heading of the picture.
    """
    figure = Figure(figsize=(9, 5), layout='constrained')
    axes = figure.subplots()
    draw_forecast_axes(axes, forecast, predictions)
    axes.set_title(title)
    save_figure(figure, path)


def draw_forecast_axes(axes: Axes, forecast: Forecast, predictions: Sequence[Prediction]) -> None:
    """Draws a forecast into a plot; the arguments are those of ``draw_forecast``."""
    shown = [forecast.steps, forecast.hidden[0], [p.step for p in predictions]]
    ends = np.concatenate([np.asarray(part, dtype=float) for part in shown])
    steps = np.linspace(forecast.steps.min(), ends.max(), 600)
    ap, half = forecast.curve(steps)
    axes.fill_between(
        steps, ap - half, ap + half, color='tab:blue', alpha=0.15, lw=0, label='95 % band'
    )
    family = forecast.fit.family
    axes.plot(steps, ap, color='tab:blue', label=f'{family.name}: {family.formula}')
    axes.plot(forecast.steps, forecast.ap, 'o', ms=4, color='black', label='evaluations')
    if len(forecast.hidden[0]):
        axes.plot(*forecast.hidden, 'o', ms=4, mfc='none', color='black', label='hidden')
    if forecast.drop is not None:
        axes.axvline(forecast.drop, color='gray', ls='--', lw=1, label='learning-rate drop')
    for p in predictions:
        axes.errorbar(
            p.step, p.ap, [[p.ap - p.low], [p.high - p.ap]],
            fmt='s', ms=5, capsize=4, color='tab:red',
        )  # fmt: skip
        axes.annotate(
            f'{p.ap:.1f}', (p.step, p.ap), textcoords='offset points', xytext=(-8, 8),
            ha='right', color='tab:red',
        )  # fmt: skip
    axes.set(xlabel='optimizer step', ylabel='AP')
    # The wide band of the first steps would flatten everything else.
    low, high = forecast.ap.min(), max(forecast.ap.max(), float((ap + half).max()))
    axes.set_ylim(max(low - 0.05 * (high - low), 0.0), min(high + 0.05 * (high - low), 100.0))
    axes.grid(alpha=0.3)
    axes.legend(loc='lower right')
