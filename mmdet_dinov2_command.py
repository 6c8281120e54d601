"""The command ``mmdet_dinov2``.

It stands beside the package, because the package cannot be imported where something is missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def main(command: str | None = None) -> None:
    """Runs a command of ``mmdet_dinov2.cli`` with the arguments of the process.

    Args:
        command: Name of the command; by default the first argument of the process.
    """
    arguments = sys.argv[1:] if command is None else [command, *sys.argv[1:]]
    if arguments[:1] == ['env']:
        check_environment(arguments[1:])
    try:
        from mmdet_dinov2.cli import run
    except ImportError as error:
        # It names what is missing, with the command that installs it.
        sys.exit(f'error: {error}')
    run(arguments)


def check_environment(arguments: list[str]) -> None:
    """Reports on packages, devices and disk, and exits; the package need not be importable."""
    parser = argparse.ArgumentParser(
        prog='mmdet_dinov2 env',
        description='List what training needs and the environment lacks, with the command that '
        'fixes it. The exit code is 1 if a training cannot start.',
    )
    parser.add_argument('--work-dir', default='work_dirs', help='folder for checkpoints')
    parser.add_argument(
        '--no-imports', action='store_true', help='check versions only, which is quick'
    )
    args = parser.parse_args(arguments)
    environment = _load_environment()
    problems = environment.check_environment(args.work_dir, imports=not args.no_imports)
    print(environment.format_report(problems))
    sys.exit(any(problem.severity == 'error' for problem in problems))


def _load_environment() -> ModuleType:
    """Loads ``mmdet_dinov2.environment`` without the rest of the package."""
    folder = Path(__file__).resolve().parent / 'mmdet_dinov2' / 'environment'
    spec = importlib.util.spec_from_file_location(
        'mmdet_dinov2_environment', folder / '__init__.py', submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
