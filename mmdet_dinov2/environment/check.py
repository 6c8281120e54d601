"""The whole check, and its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .packages import NOT_INSTALLED, check_packages
from .probe import check_imports, probe
from .problem import Problem
from .system import check_system

_ORDER = ('error', 'warning', 'info')


def check_environment(work_dir: str | Path = '.', imports: bool = True) -> list[Problem]:
    """Checks everything that training needs of its environment.

    Args:
        work_dir: Folder for checkpoints.
        imports: Whether to also try the imports, which takes some seconds.

    Returns:
        Errors first, then warnings, then facts.
    """
    problems = [*check_system(work_dir), *check_packages()]
    if imports:
        missing = any(problem.what.startswith(NOT_INSTALLED) for problem in problems)
        # A missing package is reported once, not again for each import of it.
        problems += (
            problem
            for problem in check_imports(*probe())
            if not (missing and NOT_INSTALLED in problem.what)
        )
    return sorted(problems, key=lambda problem: _ORDER.index(problem.severity))


def format_report(problems: Sequence[Problem]) -> str:
    """Returns one line for each problem or fact, and one for its remedy."""
    lines = []
    for problem in problems:
        lines.append(f'{problem.severity + ":":9}{problem.what}')
        if problem.remedy:
            lines.append(f'{"":9}-> {problem.remedy}')
    errors = sum(problem.severity == 'error' for problem in problems)
    lines.append('')
    lines.append(
        f'{errors} error{"s" if errors > 1 else ""} to fix before training can start'
        if errors
        else 'this environment is ready for training'
    )
    return '\n'.join(lines)
