"""Draws the features of a backbone. Usage: python tools/show_features.py CONFIG IMAGES..."""

import argparse
import sys
from pathlib import Path

try:
    import mmdet_dinov2  # noqa: F401  names what is missing, with the command that installs it
except ImportError as error:
    sys.exit(f'error: {error}')

from mmdet_dinov2 import cli
from mmdet_dinov2.analysis.feature_input import load_backbone_of, prepare_image, weights_title
from mmdet_dinov2.analysis.features import draw_features, extract_features


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Draw the principal components of DINOv2 tokens and the attention of the CLS '
        'token'
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        'images', nargs='+', help='image files; equal colours mean the same in all of them'
    )
    parser.add_argument(
        '--checkpoint',
        help='checkpoint of the detector; by default the init_cfg of the backbone is used',
    )
    parser.add_argument('--size', type=int, default=518, help='longer side of the images in pixels')
    parser.add_argument('--device', default='cpu', help='device such as cpu or cuda')
    parser.add_argument('--out', help='picture file; by default features.png in the work folder')
    cli.add_config_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with cli.one_sentence_errors(every_error=True):
        cfg = cli.read_config(args)
        backbone, loaded = load_backbone_of(cfg, args.checkpoint)
        backbone.to(args.device)
        prepared = [prepare_image(cfg, path, args.size) for path in args.images]
        features = extract_features(backbone, [tensor.to(args.device) for _, tensor in prepared])
        out = Path(args.out or Path(cfg.work_dir) / 'features.png')
        title = f'{cli.config_name(args)}: {weights_title(loaded)}'
        draw_features([picture for picture, _ in prepared], features, out, title)
    print(f'{weights_title(loaded)}\ndrawn: {out}')


if __name__ == '__main__':
    main()
