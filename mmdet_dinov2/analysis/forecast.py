"""AP of a run at later steps: a curve through its evaluations, and the learning-rate drop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import InputError
from .curve_fits import Fit, fit_best, fit_curve
from .lr_drop import DropGain, published_gain

# Evaluations before the drop, below which a forecast says more about the curve than about the run.
MIN_EVALUATIONS = 5


@dataclass(frozen=True)
class Prediction:
    """AP expected of one evaluation.

    Attributes:
        step: Optimizer step.
        ap: AP in points.
        low: Lower end of the 95 % interval.
        high: Upper end.
    """

    step: int
    ap: float
    low: float
    high: float


@dataclass(frozen=True)
class Forecast:
    """A fitted curve and what follows from it.

    Attributes:
        steps: Steps of the evaluations, shape (N,).
        ap: AP of them in points, shape (N,).
        fit: The curve, of the evaluations before the drop.
        errors: Held-out error of each family.
        drop: Step of the drop; None without one.
        gain: What the drop brings; None without one.
        hidden: Evaluations (steps, AP) that were left out to check the forecast.
    """

    steps: np.ndarray
    ap: np.ndarray
    fit: Fit
    errors: dict[str, float]
    drop: int | None = None
    gain: DropGain | None = None
    hidden: tuple[np.ndarray, np.ndarray] = field(
        default_factory=lambda: (np.empty(0), np.empty(0))
    )

    def curve(self, steps: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """AP and half-width of the 95 % interval of one evaluation, at steps of shape (N,).

        The uncertainties of the curve and of the drop are independent, so their squares add up.
        """
        steps = np.asarray(steps, dtype=float)
        ap = self.fit.predict(steps)
        half = self.fit.half_width(steps, evaluation=True)
        if self.gain is not None:
            after = steps > self.drop
            half = np.where(after, np.hypot(half, self.gain.ap_half_width(ap)), half)
            ap = np.where(after, self.gain.apply(ap), ap)
        return ap, half

    def at(self, step: int) -> Prediction:
        """The evaluation at one step."""
        (ap,), (half,) = self.curve([step])
        return Prediction(step, float(ap), max(float(ap - half), 0.0), min(float(ap + half), 100.0))


def make_forecast(
    steps: Sequence[float],
    ap: Sequence[float],
    drop: int | None = None,
    until: int | None = None,
    family: str | None = None,
) -> Forecast:
    """Fits a curve to evaluations.

    Args:
        steps: Optimizer steps, shape (N,).
        ap: AP in points (0 to 100) at these steps, shape (N,).
        drop: Step at which the learning rate falls to a tenth. Only evaluations up to it make the
            curve; later ones correct the published size of the gain.
        until: Hides the evaluations at and behind this step, to see how well they are foretold.
        family: Family of curves; the one with the smallest held-out error if not given.

    Raises:
        InputError: If there are fewer than ``MIN_EVALUATIONS`` evaluations (before the drop), or
            nothing can be fitted.
    """
    steps, ap = np.asarray(steps, dtype=float), np.asarray(ap, dtype=float)
    positive = steps > 0
    steps, ap = steps[positive], ap[positive]
    seen = steps < (np.inf if until is None else until)
    hidden = steps[~seen], ap[~seen]
    steps, ap = steps[seen], ap[seen]
    before = steps <= (np.inf if drop is None else drop)
    if before.sum() < MIN_EVALUATIONS:
        where = 'evaluations' if drop is None else f'evaluations up to the drop at step {drop}'
        raise InputError(
            f'a forecast needs at least {MIN_EVALUATIONS} evaluations, there are {before.sum()} '
            f'{where}'
        )
    fit, errors = fit_best(steps[before], ap[before], family)
    gain = None
    if drop is not None:
        gain = published_gain()
        if not before.all():
            curve = fit.predict(steps[~before])
            half = fit.half_width(steps[~before], evaluation=True).mean()
            gain = gain.updated(curve, ap[~before], float(half))
    return Forecast(steps, ap, fit, errors, drop, gain, hidden)


def describe_fits(forecast: Forecast) -> str:
    """The families with their held-out errors and parameters, for people."""
    before = forecast.steps <= (np.inf if forecast.drop is None else forecast.drop)
    lines = [f'{"family":<12} {"held-out error":>14}  parameters +- half of the 95 % interval']
    for name, error in forecast.errors.items():
        fit = fit_curve(forecast.steps[before], forecast.ap[before], name)
        values = 'does not fit'
        if fit is not None:
            values = '  '.join(
                f'{symbol} {value:.4f} +- {half:.4f}'
                for symbol, value, half in zip(
                    fit.family.parameters, fit.values, fit.half_widths, strict=True
                )
            )
            values = f'{fit.family.formula}:  {values}'
        mark = '*' if name == forecast.fit.family.name else ' '
        shown = f'{error:.2f} AP' if np.isfinite(error) else '-'
        lines.append(f'{mark}{name:<11} {shown:>14}  {values}')
    return '\n'.join(lines)


def describe_gain(forecast: Forecast) -> str:
    """Whether the drop is known from published runs only or from this run too, for people."""
    gain, drop = forecast.gain, forecast.drop
    ap = float(forecast.fit.predict(drop))
    size = f'{gain.apply(ap) - ap:+.1f} +- {gain.ap_half_width(ap):.1f} AP'
    if not gain.num_evaluations:
        return f'drop at step {drop}: {size} expected from published runs alone'
    return f'drop at step {drop}: {size}, from {gain.num_evaluations} evaluations after it as well'


def draw_forecast(
    forecast: Forecast,
    predictions: Sequence[Prediction],
    path: str | Path,
    title: str,
) -> None:
    """Draws evaluations, curve and 95 % band.

    Args:
        forecast: The forecast.
        predictions: Predictions to mark.
        path: Picture file; its folder is made.
        title: Heading of the picture.
    """
    figure = Figure(figsize=(9, 5), layout='constrained')
    axes = figure.subplots()
    draw_forecast_axes(axes, forecast, predictions)
    axes.set_title(title)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def draw_forecast_axes(axes: Axes, forecast: Forecast, predictions: Sequence[Prediction]) -> None:
    """Draws a forecast into a plot; arguments as for ``draw_forecast``."""
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
    # Bands of the first steps would flatten everything else.
    low, high = forecast.ap.min(), max(forecast.ap.max(), float((ap + half).max()))
    axes.set_ylim(max(low - 0.05 * (high - low), 0.0), min(high + 0.05 * (high - low), 100.0))
    axes.grid(alpha=0.3)
    axes.legend(loc='lower right')
