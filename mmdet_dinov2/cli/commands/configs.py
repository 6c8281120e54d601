"""Lists the configs of this project."""

from __future__ import annotations

import argparse

from ...config.files import config_folder, list_configs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.description = 'List the configs that every command finds by their names'


def main(args: argparse.Namespace) -> None:
    """Runs the command."""
    print('\n'.join(list_configs()))
    print(f'\nfiles: {config_folder()}')
