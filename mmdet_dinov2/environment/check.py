"""The whole check, and how it is printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .packages import NOT_INSTALLED, check_packages
from .probe import check_imports, probe
from .problem import Problem
from .system import check_system

_ORDER = ('error', 'warning', 'info')


def check_environment(work_dir: str | Path = '.', imports: bool = True) -> list[Problem]:
    """Checks everything that a training needs of its environment.

    Args:
        work_dir: Where checkpoints will go.
        imports: Whether to try the imports too, which takes some seconds.

    Returns:
        Errors first, then warnings, then facts.
    """
    problems = [*check_system(work_dir), *check_packages()]
    if imports:
        missing = any(problem.what.startswith(NOT_INSTALLED) for problem in problems)
        # What is known to be missing is not told once more for each import of it.
        problems += (
            problem
            for problem in check_imports(*probe())
            if not (missing and NOT_INSTALLED in problem.what)
        )
    return sorted(problems, key=lambda problem: _ORDER.index(problem.severity))


def format_report(problems: Sequence[Problem]) -> str:
    """One line for each finding, and one for its remedy."""
    lines = []
    for problem in problems:
        lines.append(f'{problem.severity + ":":9}{problem.what}')
        if problem.remedy:
            lines.append(f'{"":9}-> {problem.remedy}')
    errors = sum(problem.severity == 'error' for problem in problems)
    lines.append('')
    lines.append(
        f'{errors} error{"s" if errors > 1 else ""} to mend before a training can start'
        if errors
        else 'This environment can train'
    )
    return '\n'.join(lines)
