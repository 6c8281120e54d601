"""A finding of the environment check."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that the check found.

    Attributes:
        severity: 'error' for what stops a training, 'warning' for what may hurt, 'info' for facts.
        what: What is there, or missing.
        remedy: The command that mends it; empty for facts.
    """

    severity: str
    what: str
    remedy: str = ''
