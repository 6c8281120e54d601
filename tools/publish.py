"""Writes weights, config and classes of a checkpoint. Usage: python tools/publish.py CHECKPOINT"""

import argparse
import sys
from pathlib import Path

try:
    import mmdet_dinov2  # noqa: F401  names what is missing, with the command that installs it
except ImportError as error:
    sys.exit(f'error: {error}')

from mmdet_dinov2 import cli
from mmdet_dinov2.checkpoint import trust_checkpoints
from mmdet_dinov2.checkpoint.publish import Published, publish


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write what others need of a checkpoint: its weights, its config and its '
        'classes. The start of the SHA-256 of the file becomes a part of its name.'
    )
    parser.add_argument('checkpoint', help='checkpoint of a training')
    parser.add_argument(
        '--out',
        type=Path,
        help='file to write, NAME.pth or NAME.safetensors; by default published/CHECKPOINT.pth '
        'beside the checkpoint',
    )
    cli.add_trust_argument(parser)
    return parser.parse_args()


def describe(published: Published) -> str:
    parts = [
        f'{key} ({size / 2**20:.1f} MiB)' if size > 2**20 / 20 else key
        for key, size in published.left_out.items()
    ]
    return (
        f'left out: {", ".join(parts) or "nothing"}\n'
        f'written: {published.path} ({published.size / 2**20:.1f} MiB of '
        f'{published.size_before / 2**20:.1f} MiB)'
    )


def main() -> None:
    args = parse_args()
    with cli.one_sentence_errors(every_error=True):
        if args.trust_checkpoint:
            trust_checkpoints()
        source = Path(args.checkpoint)
        target = args.out or source.parent / 'published' / f'{source.stem}.pth'
        published = publish(source, target)
    print(describe(published))


if __name__ == '__main__':
    main()
