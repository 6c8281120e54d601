"""Predicts the AP of a run at later steps, from its evaluations and the learning-rate drop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import InputError
from ..wording import text_table
from .curve_fits import Fit, fit_best, fit_curve
from .lr_drop import DropGain, published_gain

# With fewer evaluations before the drop, a forecast says little about the run.
MIN_EVALUATIONS = 5


@dataclass(frozen=True)
class Prediction:
    """The predicted AP of one evaluation.

    Attributes:
        step: Optimizer step.
        ap: AP in points (0 to 100).
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
    """

    step: int
    ap: float
    low: float
    high: float


@dataclass(frozen=True)
class Forecast:
    """A curve that predicts the AP of a run.

    Attributes:
        steps: Steps of the evaluations, shape (N,).
        ap: Their AP in points (0 to 100), shape (N,).
        fit: The curve through the evaluations before the drop.
        errors: Held-out error of each family by name.
        drop: Step of the drop of the learning rate; ``None`` without one.
        gain: Gain of AP by the drop; ``None`` without one.
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
        """Returns the AP and the half-width of its 95 % interval for evaluations at some steps.

        The uncertainties of the curve and of the drop are independent, so their squares add up.

        Args:
            steps: Optimizer steps, shape (N,).
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
        """Predicts the evaluation at one step."""
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
        drop: Step at which the learning rate falls to a tenth. Evaluations up to it determine the
            curve; later ones correct the published gain.
        until: Hides the evaluations from this step on, to see how well they are predicted.
        family: Family of curves; ``None`` takes the one with the smallest held-out error.

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
        where = '' if drop is None else f' up to the drop at step {drop}'
        raise InputError(
            f'a forecast needs at least {MIN_EVALUATIONS} evaluations{where}, but the log has '
            f'{before.sum()}; train_cfg.val_interval sets how often a run evaluates'
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
    """Returns a table of the families with their held-out errors and parameters."""
    before = forecast.steps <= (np.inf if forecast.drop is None else forecast.drop)
    rows = []
    for name, error in forecast.errors.items():
        fit = fit_curve(forecast.steps[before], forecast.ap[before], name)
        values = 'does not fit'
        if fit is not None:
            values = ', '.join(
                f'{symbol} {value:.4f} +- {half:.4f}'
                for symbol, value, half in zip(
                    fit.family.parameters, fit.values, fit.half_widths, strict=True
                )
            )
            values = f'{fit.family.formula}: {values}'
        mark = '*' if name == forecast.fit.family.name else ' '
        shown = f'{error:.2f} AP' if np.isfinite(error) else '-'
        rows.append((f'{mark}{name}', shown, values))
    header = ('family', 'held-out error', 'parameters +- half of the 95 % interval')
    return text_table(header, rows)


def describe_gain(forecast: Forecast) -> str:
    """Returns a sentence about the gain by the drop, and whether this run confirms it."""
    gain, drop = forecast.gain, forecast.drop
    ap = float(forecast.fit.predict(drop))
    size = f'{gain.apply(ap) - ap:+.1f} +- {gain.ap_half_width(ap):.1f} AP'
    if not gain.num_evaluations:
        return f'drop at step {drop}: {size} expected from published runs alone'
    return f'drop at step {drop}: {size}, also from {gain.num_evaluations} evaluations after it'
