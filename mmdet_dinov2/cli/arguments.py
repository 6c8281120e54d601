"""Arguments that several tools have."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..checkpoint.reading import TRUST_FLAG, trust_checkpoints
from ..config.options import parse_options
from ..errors import InputError


def at_least_one(text: str) -> int:
    """Reads a whole number of at least 1, as ``type`` of an argument."""
    if not (text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f'must be a whole number of at least 1, but is {text!r}')
    return int(text)


class OptionsAction(argparse.Action):
    """Reads ``--cfg-options``; a slip ends the program with one sentence, without the usage."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str],
        option_string: str | None = None,
    ) -> None:
        """Adds the options to those that were given before."""
        try:
            options = parse_options(values)
        except InputError as error:
            parser.exit(2, f'error: {error}\n')
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), **options})


class TrustAction(argparse.Action):
    """Reads ``--trust-checkpoint``, which holds for the whole program and its children."""

    def __call__(self, *args, **kwargs) -> None:
        """Trusts checkpoints from now on."""
        trust_checkpoints()


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that training and testing share, named as in mmdet."""
    add_config_arguments(parser)
    parser.add_argument(
        '--no-preflight', action='store_true', help='start without checking the dataset'
    )
    add_trust_argument(parser)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what starts the processes of a distributed run',
    )
    # torch.distributed.launch passes it; torchrun sets LOCAL_RANK instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that change a config."""
    parser.add_argument(
        '--data',
        metavar='PATH',
        help='dataset to use instead of the one in the config: a folder (COCO, YOLO, darknet, '
        'Pascal VOC or labelme) or a data.yaml',
    )
    parser.add_argument(
        '--work-dir', help='output folder; work_dirs/CONFIG by default, if the config names none'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        metavar='KEY=VALUE',
        help='settings that override the config, as key=value; lists as key="[a,b]"',
    )


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the argument that admits checkpoints with code in them."""
    parser.add_argument(
        TRUST_FLAG,
        action=TrustAction,
        nargs=0,
        help='load checkpoints that run code; only for files whose author you trust',
    )
