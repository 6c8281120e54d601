"""Draws docs/assets/overview.png: boxes of the quick start, and the tokens behind them.

Command, after `make quickstart`:
    python docs/assets/overview.py work_dirs/quickstart/epoch_14.pth data/shapes/val
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from PIL import Image

import mmdet_dinov2

PATCH = 14
COLOURS = ('#2f81c1', '#d98324')
WIDTH = 27  # tokens in a line of the stream


def choose_images(detector, folder: Path) -> list[Path]:
    """One wide and one high picture: those of each kind with the most confident boxes."""
    found = {}
    paths = sorted(folder.iterdir())
    for path, sample in zip(paths, detector.predict([str(p) for p in paths], 8), strict=True):
        height, width = sample.ori_shape[:2]
        kind = 'wide' if width > 1.3 * height else 'high' if height > 1.2 * width else 'square'
        count = int((sample.pred_instances.scores > 0.6).sum())
        found[kind] = max(found.get(kind, (-1, path)), (count, path), key=lambda row: row[0])
    return [found['wide'][1], found['high'][1]]


def main(checkpoint: str, folder: str) -> None:
    detector = mmdet_dinov2.load(checkpoint)
    paths = choose_images(detector, Path(folder))
    samples = list(detector.predict([str(path) for path in paths], batch_size=2))

    figure = plt.figure(figsize=(9.6, 2.7), dpi=125)
    places = ([0.005, 0.02, 0.29, 0.84], [0.30, 0.02, 0.2, 0.84])
    tokens = []
    for path, sample, place, colour in zip(paths, samples, places, COLOURS, strict=True):
        image = cv2.imread(str(path))[..., ::-1]
        axes = figure.add_axes(place)
        axes.imshow(image)
        axes.axis('off')
        found = sample.pred_instances
        for box, score, label in zip(found.bboxes, found.scores, found.labels, strict=True):
            if score < 0.4:
                continue
            x1, y1, x2, y2 = box.tolist()
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, lw=1.6, ec=colour))
            text = f'{detector.classes[int(label)]} {score:.2f}'
            background = dict(boxstyle='square,pad=0.15', fc=colour, ec='none')
            axes.text(x1, y1 - 2, text, fontsize=6.5, color='white', bbox=background)
        height, width = sample.img_shape[:2]
        rows, columns = -(-height // PATCH), -(-width // PATCH)
        scale = (image.shape[0] / height, image.shape[1] / width)
        for row, column in np.ndindex(rows, columns):
            y, x = row * PATCH, column * PATCH
            cell = image[
                int(y * scale[0]) : int((y + PATCH) * scale[0]),
                int(x * scale[1]) : int((x + PATCH) * scale[1]),
            ]
            tokens.append((cell.reshape(-1, 3).mean(0) / 255, colour))

    axes = figure.add_axes([0.535, 0.03, 0.455, 0.85])
    for i, (shade, colour) in enumerate(tokens):
        row, column = divmod(i, WIDTH)
        axes.add_patch(Rectangle((column, -row), 0.84, 0.84, fc=shade, ec=colour, lw=1.3))
    axes.set_xlim(-0.2, WIDTH)
    axes.set_ylim(-(len(tokens) // WIDTH) - 0.3, 1.2)
    axes.set_aspect('equal')
    axes.axis('off')
    figure.text(0.005, 0.94, 'Quick start: boxes on pictures it has not seen', fontsize=10)
    figure.text(
        0.535, 0.94, f'Both pictures as one stream of {len(tokens)} tokens, no padding', fontsize=10
    )
    path = Path(__file__).with_name('overview.png')
    figure.savefig(path)
    Image.open(path).convert('RGB').quantize(128).save(path, optimize=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
