"""Converts DINOv2 weights from any layout. Usage: python tools/convert_weights.py SRC DST"""

import argparse
import sys
from pathlib import Path

try:
    import mmdet_dinov2  # noqa: F401  names what is missing, with the command that installs it
except ImportError as error:
    sys.exit(f'error: {error}')

import torch
from safetensors.torch import save_file

from mmdet_dinov2 import cli
from mmdet_dinov2.checkpoint import read_checkpoint, state_dict_of, trust_checkpoints
from mmdet_dinov2.checkpoint.layouts import recognise
from mmdet_dinov2.files import whole_file


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write DINOv2 weights under the names of this project. Configs load every '
        'layout directly; converted files are for sharing and for other programs.'
    )
    parser.add_argument(
        'src', help='checkpoint file or URL in any layout; it may hold a whole detector'
    )
    parser.add_argument('dst', type=Path, help='file to write, .pth or .safetensors')
    cli.add_trust_argument(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with cli.one_sentence_errors(every_error=True):
        if args.dst.suffix not in ('.pth', '.safetensors'):
            raise ValueError(f'{args.dst} must end in .pth or .safetensors')
        if args.dst.exists():
            raise ValueError(f'{args.dst} exists; remove it or name another file')
        if not args.dst.parent.is_dir():
            raise FileNotFoundError(f'folder {args.dst.parent} does not exist; make it first')
        if args.trust_checkpoint:
            trust_checkpoints()
        content = state_dict_of(read_checkpoint(args.src), args.src)
        layout, state = recognise(content)
        state = {name: tensor.contiguous() for name, tensor in state.items()}
        with whole_file(args.dst) as partial:
            if args.dst.suffix == '.safetensors':
                save_file(state, partial)
            else:
                torch.save(state, partial)
    print(
        f'{args.src} ({layout.name} layout): {len(state)} of {len(content)} tensors in {args.dst}'
    )


if __name__ == '__main__':
    main()
