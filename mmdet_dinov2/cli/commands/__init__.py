"""The commands: one module each, with ``add_arguments`` and ``main``."""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import sys
from collections.abc import Sequence

from ...config.names import did_you_mean
from ...version import __version__

COMMANDS = dict(
    train='train a detector',
    test='evaluate a checkpoint on COCO metrics',
    predict='detect objects in images and videos',
    select='choose photos to label, and find near-duplicates',
    check='check the annotations and images of a dataset',
    report='write an HTML page about a run',
    curves='draw the losses and scores of runs',
    forecast='predict the AP of a run',
    lr='draw the learning rates of a training, before it runs',
    features='draw the features of a backbone',
    benchmark='measure what detectors cost, and compare them with their peers',
    ablate='train changes of a config with several seeds, and compare them',
    convert='write weights under the names of this project',
    publish='write weights, config and classes of a checkpoint, without the rest',
    export='write a detector to a file without PyTorch, and prove it',
    replay='find the cause of a non-finite loss',
    configs='list the configs that a name finds',
    env='check packages, devices and disk',
)


def run(arguments: Sequence[str]) -> None:
    """Runs the command that the first argument names; exits with an overview if it names none."""
    name, rest = (arguments[0] if arguments else '--help'), list(arguments[1:])
    if name == '--version':
        print(f'mmdet_dinov2 {__version__}')
    elif name in ('-h', '--help'):
        print(_overview())
    elif name not in COMMANDS:
        sys.exit(
            f'error: mmdet_dinov2 has no command {name!r}, only {", ".join(COMMANDS)}'
            f'{did_you_mean(name, COMMANDS)}'
        )
    else:
        module = importlib.import_module(f'{__name__}.{name}')
        script = os.path.basename(sys.argv[0])
        is_tool = script.endswith('.py') and not script.startswith('__')
        parser = argparse.ArgumentParser(script if is_tool else f'mmdet_dinov2 {name}')
        parser.set_defaults(command_line=shlex.join(['mmdet_dinov2', *arguments]))
        module.add_arguments(parser)
        module.main(parser.parse_args(rest))


def _overview() -> str:
    lines = [f'  {name:11}{summary}' for name, summary in COMMANDS.items()]
    return '\n'.join(
        [
            'usage: mmdet_dinov2 COMMAND ...',
            '',
            *lines,
            '',
            '`mmdet_dinov2 COMMAND --help` lists the arguments of a command.',
        ]
    )
