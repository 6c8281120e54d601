"""Checks packages, devices and disk. Usage: python tools/check_env.py [--work-dir DIR]"""

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_environment() -> ModuleType:
    """Loads ``mmdet_dinov2.environment`` alone, as the rest of the package may not import."""
    folder = Path(__file__).resolve().parents[1] / 'mmdet_dinov2' / 'environment'
    spec = importlib.util.spec_from_file_location(
        'mmdet_dinov2_environment', folder / '__init__.py', submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(
        description='List what training needs and the environment lacks, with the command that '
        'fixes it. The exit code is 1 if a training cannot start.'
    )
    parser.add_argument('--work-dir', default='work_dirs', help='folder for checkpoints')
    parser.add_argument(
        '--no-imports', action='store_true', help='check versions only, which is quick'
    )
    args = parser.parse_args()
    environment = load_environment()
    problems = environment.check_environment(args.work_dir, imports=not args.no_imports)
    print(environment.format_report(problems))
    sys.exit(any(problem.severity == 'error' for problem in problems))


if __name__ == '__main__':
    main()
