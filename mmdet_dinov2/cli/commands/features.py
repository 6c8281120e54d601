"""Draws the features of a backbone."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...analysis.features import draw_features, extract_features
from ...inference.backbone_input import load_backbone_of, prepare_image, weights_title
from ..arguments import add_config_arguments, add_trust_argument, at_least_one
from ..configs import config_name, read_config
from ..messages import one_sentence_errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.description = (
        'Draw the principal components of DINOv2 tokens and the attention of the CLS token'
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        'images', nargs='+', help='image files; equal colours mean the same in all of them'
    )
    parser.add_argument(
        '--checkpoint',
        help='checkpoint of the detector; by default the init_cfg of the backbone is used',
    )
    parser.add_argument(
        '--size', type=at_least_one, default=518, help='longer side of the images in pixels'
    )
    parser.add_argument('--device', default='cpu', help='device such as cpu or cuda')
    parser.add_argument('--out', help='picture file; by default features.png in the work folder')
    add_config_arguments(parser)
    add_trust_argument(parser)


def main(args: argparse.Namespace) -> None:
    """Runs the command."""
    with one_sentence_errors(every_error=True):
        cfg = read_config(args)
        backbone, loaded = load_backbone_of(cfg, args.checkpoint)
        backbone.to(args.device)
        prepared = [prepare_image(cfg, path, args.size) for path in args.images]
        features = extract_features(backbone, [tensor.to(args.device) for _, tensor in prepared])
        out = Path(args.out or Path(cfg.work_dir) / 'features.png')
        title = f'{config_name(args)}: {weights_title(loaded)}'
        draw_features([picture for picture, _ in prepared], features, out, title)
    print(f'{weights_title(loaded)}\ndrawn: {out}')
