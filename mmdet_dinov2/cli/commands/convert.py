"""Converts DINOv2 and DINOv3 weights from any layout, and the published detector of detrex."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from ...checkpoint import read_checkpoint, state_dict_of
from ...checkpoint.detrex_dino import (
    DETREX_DINO,
    detrex_classes,
    from_detrex_dino,
    is_detrex_dino,
)
from ...checkpoint.layouts import recognise
from ...checkpoint.reading import CLASSES_KEY
from ...files import whole_file
from ..arguments import add_trust_argument
from ..messages import one_sentence_errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.description = (
        'Write DINOv2 or DINOv3 weights under the names of this project: the backbone alone, '
        "or, of detrex's DINO on DINOv2, the whole detector. Configs load every layout directly; "
        'converted files are for sharing and for other programs.'
    )
    parser.add_argument(
        'src', help='checkpoint file or URL in any layout; it may hold a whole detector'
    )
    parser.add_argument('dst', type=Path, help='file to write, .pth or .safetensors')
    add_trust_argument(parser)


def main(args: argparse.Namespace) -> None:
    """Runs the command."""
    with one_sentence_errors(every_error=True):
        if args.dst.suffix not in ('.pth', '.safetensors'):
            raise ValueError(f'{args.dst} must end in .pth or .safetensors')
        if args.dst.exists():
            raise ValueError(f'{args.dst} exists; remove it or name another file')
        if not args.dst.parent.is_dir():
            raise FileNotFoundError(f'folder {args.dst.parent} does not exist; make it first')
        content = state_dict_of(read_checkpoint(args.src), args.src)
        if is_detrex_dino(content):
            layout, state = DETREX_DINO, from_detrex_dino(content, args.src)
            classes = detrex_classes(content)
        else:
            layout, state = recognise(content)
            classes = None
        state = {name: tensor.contiguous() for name, tensor in state.items()}
        with whole_file(args.dst) as partial:
            if args.dst.suffix == '.safetensors':
                texts = {CLASSES_KEY: json.dumps(classes)} if classes else {}
                save_file(state, partial, {'format': 'pt', **texts})
            elif classes:
                torch.save(
                    dict(meta=dict(dataset_meta=dict(classes=classes)), state_dict=state), partial
                )
            else:
                torch.save(state, partial)
    print(
        f'{args.src} ({layout.name} layout): {len(state)} of {len(content)} tensors in {args.dst}'
    )
    if layout.licence:
        print(f'licence: {layout.licence}')
