"""How much AP a drop of the learning rate gains, as far as it is known before the drop.

Evaluations before a drop do not show its gain, so it needs a prior. The prior comes from published
results of the same detector, DINO, whose learning rate falls to a tenth near the end of training.
The gain is the rise of the log-odds ``ln(AP / (100 - AP))`` above the curve without the drop, which
carries over to any level of AP without leaving 0 to 100.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .curve_fits import fit_curve, t_quantile


@dataclass(frozen=True)
class PublishedDrop:
    """A published training with a drop of the learning rate to a tenth.

    Attributes:
        what: Detector and schedule.
        source: Where the numbers were published.
        before: AP in points of the epochs before the drop, in order; a single number is the best
            before the drop.
        after: AP in points at the end of the training.
    """

    what: str
    source: str
    before: tuple[float, ...]
    after: float

    @property
    def without(self) -> float:
        """AP at the end of the training if the curve had continued as before the drop.

        A single number before the drop is taken as it is. The gain by the drop then includes what
        the curve would have gained without it.
        """
        if len(self.before) == 1:
            return self.before[0]
        epochs = np.arange(1, len(self.before) + 1)
        return float(fit_curve(epochs, np.array(self.before)).predict(len(self.before) + 1))

    @property
    def gain(self) -> float:
        """Rise of the log-odds by the drop."""
        return log_odds(self.after) - log_odds(self.without)


PUBLISHED_DROPS = (
    PublishedDrop(
        'DINO R50, 12 epochs, drop after 11',
        "github.com/IDEA-Research/DINO/issues/128 (the authors' log)",
        (23.0, 33.2, 38.0, 40.0, 41.4, 43.0, 43.1, 44.6, 45.4, 45.8, 46.2),
        49.0,
    ),
    PublishedDrop(
        'DINO R50, 36 epochs, drop at an epoch chosen by hand',
        'github.com/IDEA-Research/DINO/issues/104 (the authors)',
        (48.9,),
        50.9,
    ),
    PublishedDrop(
        'DINO R50, 36 epochs, drop after 30',
        'github.com/IDEA-Research/DINO/issues/104 (a reproduction)',
        (48.8,),
        50.5,
    ),
)


def log_odds(ap: float | np.ndarray) -> float | np.ndarray:
    """Returns ``ln(AP / (100 - AP))`` of AP in points, which is clipped to 0.1 to 99.9."""
    ap = np.clip(ap, 0.1, 99.9)
    return np.log(ap / (100 - ap))


@dataclass(frozen=True)
class DropGain:
    """The expected gain by a drop.

    Attributes:
        mean: Expected rise of the log-odds.
        sd: Standard deviation of the rise for a new run.
        freedom: Degrees of freedom of Student's t.
        num_evaluations: Number of evaluations after the drop that it is based on.
    """

    mean: float
    sd: float
    freedom: float
    num_evaluations: int = 0

    @property
    def half_width(self) -> float:
        """Half-width of the 95 % interval of the rise."""
        return t_quantile(self.freedom) * self.sd

    def apply(self, ap: np.ndarray | float) -> np.ndarray:
        """Returns the AP after the drop, from the AP of the curve without it."""
        return 100 / (1 + np.exp(-(log_odds(ap) + self.mean)))

    def ap_half_width(self, ap: np.ndarray | float) -> np.ndarray:
        """Returns the half-width in AP of the interval due to the uncertainty of the gain."""
        after = self.apply(ap)
        return self.half_width * after * (100 - after) / 100

    def updated(self, curve: np.ndarray, ap: np.ndarray, curve_half_width: float) -> DropGain:
        """Returns the gain corrected by evaluations after the drop.

        Prior and evaluations are weighted by their precision, as normal distributions. All
        evaluations share the error of the extrapolated curve.

        Args:
            curve: AP of the curve without the drop at these evaluations, shape (N,).
            ap: AP of these evaluations, shape (N,).
            curve_half_width: Half-width of the 95 % interval of one such evaluation around the
                curve, in AP.
        """
        seen = log_odds(ap) - log_odds(curve)
        per_ap = 100 / (np.mean(ap) * (100 - np.mean(ap)))
        spread = float(np.var(seen, ddof=1)) / len(seen) if len(seen) > 1 else 0.0
        variance = (curve_half_width / 1.96 * per_ap) ** 2 + spread
        weight = self.sd**2 / (self.sd**2 + variance)
        return DropGain(
            self.mean + weight * (float(np.mean(seen)) - self.mean),
            math.sqrt(self.sd**2 * (1 - weight)),
            self.freedom + len(seen),
            len(seen),
        )


def published_gain() -> DropGain:
    """Returns the prior for a new run: mean and spread of the published gains."""
    gains = np.array([drop.gain for drop in PUBLISHED_DROPS])
    # A new run varies by the deviation of the sample and by the error of its mean.
    sd = float(gains.std(ddof=1)) * math.sqrt(1 + 1 / len(gains))
    return DropGain(float(gains.mean()), sd, len(gains) - 1)


def describe_prior() -> str:
    """Returns the cited numbers and the prior, as text."""
    lines = ['prior for the gain by a drop of the learning rate to a tenth, from']
    for drop in PUBLISHED_DROPS:
        lines.append(
            f'  {drop.without:5.1f} -> {drop.after:.1f} AP  log-odds {drop.gain:+.3f}  {drop.what}'
            f'; {drop.source}'
        )
    gain = published_gain()
    lines.append(
        f'  {len(PUBLISHED_DROPS)} trainings: log-odds {gain.mean:+.3f} +- {gain.half_width:.3f} '
        f"(95 %, Student's t), which is {gain.apply(50.0) - 50:+.1f} +- "
        f'{gain.ap_half_width(50.0):.1f} AP at 50 AP'
    )
    return '\n'.join(lines)
