"""Fits curves of AP over training steps, with bands, and compares them on held-out points."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.stats import t as student_t

from ..errors import InputError

CONFIDENCE = 0.95
# Candidates for the first exponent of the power law; the other parameters follow linearly.
_EXPONENTS = np.geomspace(0.05, 3.0, 40)


@dataclass(frozen=True)
class Family:
    """A family of curves.

    Attributes:
        name: Name of the family.
        formula: The formula as text, with ``s`` for the step.
        parameters: Names of the parameters.
        function: Returns AP from steps and the parameters.
        guess: Returns initial parameters from steps and AP, both of shape (N,).
    """

    name: str
    formula: str
    parameters: tuple[str, ...]
    function: Callable[..., np.ndarray]
    guess: Callable[[np.ndarray, np.ndarray], list[float]]


def t_quantile(freedom: float) -> float:
    """Returns Student's t of the two-sided 95 % interval."""
    return float(student_t.ppf((1 + CONFIDENCE) / 2, freedom))


def _line(x: np.ndarray, y: np.ndarray) -> list[float]:
    slope, offset = np.polyfit(x, y, 1)
    return [offset, slope]


def _guess_power(steps: np.ndarray, ap: np.ndarray) -> list[float]:
    best = (math.inf, [])
    for exponent in _EXPONENTS:
        offset, slope = _line(steps**-exponent, ap)
        error = np.square(offset + slope * steps**-exponent - ap).sum()
        best = min(best, (error, [offset, -slope, exponent]))
    return best[1]


FAMILIES = {
    family.name: family
    for family in (
        Family(
            'power law',
            'a - b s^-c',
            ('a', 'b', 'c'),
            lambda s, a, b, c: a - b * s**-c,
            _guess_power,
        ),
        Family(
            'logarithmic',
            'a + b ln s',
            ('a', 'b'),
            lambda s, a, b: a + b * np.log(s),
            lambda s, ap: _line(np.log(s), ap),
        ),
        Family(
            'log-linear',
            'exp(a + b ln s)',
            ('a', 'b'),
            lambda s, a, b: np.exp(a + b * np.log(s)),
            lambda s, ap: _line(np.log(s), np.log(np.maximum(ap, 0.1))),
        ),
    )
}


@dataclass(frozen=True)
class Fit:
    """A fitted curve.

    Attributes:
        family: Its family.
        values: Parameters, shape (P,).
        covariance: Their covariance, shape (P, P).
        residual_sd: Standard deviation of a single evaluation around the curve, in AP.
        num_points: Number of fitted evaluations.
    """

    family: Family
    values: np.ndarray
    covariance: np.ndarray
    residual_sd: float
    num_points: int

    @property
    def quantile(self) -> float:
        """Student's t of the 95 % interval for the degrees of freedom of the fit."""
        return t_quantile(self.num_points - len(self.values))

    @property
    def half_widths(self) -> np.ndarray:
        """Half-widths of the 95 % intervals of the parameters, shape (P,)."""
        return self.quantile * np.sqrt(np.diag(self.covariance))

    def predict(self, steps: np.ndarray | float) -> np.ndarray:
        """Returns the AP of the curve in points, at steps of any shape."""
        return self.family.function(np.asarray(steps, dtype=float), *self.values)

    def half_width(self, steps: np.ndarray | float, evaluation: bool = False) -> np.ndarray:
        """Returns the half-width of the 95 % band in points, by the delta method.

        Args:
            steps: Steps of any shape.
            evaluation: Whether the band is for a single evaluation, which scatters around the
                curve, instead of for the curve itself.
        """
        steps = np.asarray(steps, dtype=float)
        gradient = np.stack([self._derivative(steps, i) for i in range(len(self.values))], axis=-1)
        variance = np.einsum('...i,ij,...j->...', gradient, self.covariance, gradient)
        return self.quantile * np.sqrt(variance + (self.residual_sd**2 if evaluation else 0.0))

    def _derivative(self, steps: np.ndarray, index: int) -> np.ndarray:
        """Returns the derivative with respect to one parameter, as a central difference."""
        delta = 1e-5 * max(abs(self.values[index]), 1e-3)
        shift = np.zeros_like(self.values)
        shift[index] = delta
        above = self.family.function(steps, *(self.values + shift))
        return (above - self.family.function(steps, *(self.values - shift))) / (2 * delta)


def fit_curve(steps: np.ndarray, ap: np.ndarray, family: str = 'power law') -> Fit | None:
    """Fits a curve by least squares.

    Args:
        steps: Optimizer steps, positive, shape (N,).
        ap: AP at these steps in points (0 to 100), shape (N,).
        family: Name of one of ``FAMILIES``.

    Returns:
        The fit; ``None`` if no curve of this family fits, or if there are not more points than
        parameters.
    """
    kind = FAMILIES[family]
    steps, ap = np.asarray(steps, dtype=float), np.asarray(ap, dtype=float)
    if len(steps) <= len(kind.parameters):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter('error', OptimizeWarning)
        warnings.simplefilter('ignore', RuntimeWarning)
        try:
            values, covariance = curve_fit(
                kind.function, steps, ap, p0=kind.guess(steps, ap), maxfev=20000
            )
        except (RuntimeError, OptimizeWarning, np.linalg.LinAlgError):
            return None
    if not (np.isfinite(values).all() and np.isfinite(covariance).all()):
        return None
    residuals = ap - kind.function(steps, *values)
    freedom = len(steps) - len(values)
    sd = math.sqrt(float(np.square(residuals).sum()) / freedom)
    return Fit(kind, values, covariance, sd, len(steps))


def held_out_error(steps: np.ndarray, ap: np.ndarray, family: str) -> float:
    """Measures how well a family predicts the points after those that it was fitted to.

    The curve is fitted to the first half of the points, then to one more, and so on, and is
    compared with all later points each time.

    Returns:
        Mean over these fits of the root mean square error on the later points, in points of AP; NaN
        if there are too few points, infinite if a fit fails.
    """
    steps, ap = np.asarray(steps, dtype=float), np.asarray(ap, dtype=float)
    first = max(math.ceil(len(steps) / 2), max(len(f.parameters) for f in FAMILIES.values()) + 1)
    errors = []
    for count in range(first, len(steps)):
        fit = fit_curve(steps[:count], ap[:count], family)
        if fit is None:
            return math.inf
        errors.append(math.sqrt(np.square(fit.predict(steps[count:]) - ap[count:]).mean()))
    return float(np.mean(errors)) if errors else math.nan


def fit_best(
    steps: np.ndarray, ap: np.ndarray, family: str | None = None
) -> tuple[Fit, dict[str, float]]:
    """Fits the family with the smallest held-out error.

    Args:
        steps: Optimizer steps, shape (N,).
        ap: AP at these steps, in points, shape (N,).
        family: Name of the family to fit, whatever its held-out error.

    Returns:
        The fit, and the held-out error of each family by name.

    Raises:
        InputError: If nothing can be fitted.
    """
    errors = {name: held_out_error(steps, ap, name) for name in FAMILIES}
    # Too few points give NaN for all families: then their order decides, the power law first.
    order = sorted(FAMILIES, key=lambda name: 0 if math.isnan(errors[name]) else errors[name])
    for name in [family] if family else order:
        fit = fit_curve(steps, ap, name)
        if fit is not None:
            return fit, errors
    raise InputError(
        f'no curve can be fitted to the {len(steps)} evaluations; a power law needs at least '
        f'{len(FAMILIES["power law"].parameters) + 1} with rising AP'
    )
