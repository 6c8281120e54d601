"""A problem or fact that the environment check found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A problem or fact that the environment check found.

    Attributes:
        severity: 'error' for what prevents training, 'warning' for what may disturb it, 'info' for
            facts.
        what: What was found.
        remedy: The command that fixes it; empty for facts.
    """

    severity: str
    what: str
    remedy: str = ''
