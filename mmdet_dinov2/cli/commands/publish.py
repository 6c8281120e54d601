"""Writes weights, config and classes of a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...checkpoint.publish import Published, publish
from ...errors import InputError
from ..arguments import add_trust_argument
from ..messages import one_sentence_errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.description = (
        'Write what others need of a checkpoint: its weights, its config and its '
        'classes. The start of the SHA-256 of the file becomes a part of its name.'
    )
    parser.add_argument('checkpoint', help='checkpoint of a training')
    parser.add_argument(
        '--out',
        type=Path,
        help='file to write, NAME.pth or NAME.safetensors; by default published/CHECKPOINT.pth '
        'beside the checkpoint',
    )
    add_trust_argument(parser)


def _describe(published: Published) -> str:
    parts = [
        f'{key} ({size / 2**20:.1f} MiB)' if size > 2**20 / 20 else key
        for key, size in published.left_out.items()
    ]
    return (
        f'left out: {", ".join(parts) or "nothing"}\n'
        f'written: {published.path} ({published.size / 2**20:.1f} MiB of '
        f'{published.size_before / 2**20:.1f} MiB)'
    )


def main(args: argparse.Namespace) -> None:
    """Runs the command."""
    with one_sentence_errors(every_error=True):
        if '://' in args.checkpoint:
            raise InputError(f'{args.checkpoint} is not a file but a URL; download it first')
        source = Path(args.checkpoint)
        target = args.out or source.parent / 'published' / f'{source.stem}.pth'
        published = publish(source, target)
    print(_describe(published))
