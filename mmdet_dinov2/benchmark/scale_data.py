"""A dataset of any number of images that takes little room: links to a few dozen photos."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..files import write_text

# COCO 2017: training images and their boxes, validation images, classes.
COCO_IMAGES = 118_287
COCO_BOXES = 860_001
COCO_VAL_IMAGES = 5_000
NUM_CLASSES = 80
# Steps from one line of the log to the next.
LOGGED_STEPS = 10
_NUM_PHOTOS = 48
# Width and height in pixels, as frequent photos of COCO have them.
_SIZES = ((640, 480), (480, 640), (640, 427), (427, 640), (500, 375), (640, 640))
_CROWD_SHARE = 0.01
# Entries whose text is made at once.
_CHUNK = 100_000

_IMAGE = '{"id": %d, "width": %d, "height": %d, "file_name": "%012d.jpg", "license": 1}'
_ANNOTATION = (
    '{"id": %d, "image_id": %d, "category_id": %d, "iscrowd": %d, "area": %.2f, '
    '"bbox": [%.2f, %.2f, %.2f, %.2f], "segmentation": '
    '[[%.2f, %.2f, %.2f, %.2f, %.2f, %.2f, %.2f, %.2f]]}'
)


@dataclass(frozen=True)
class ScaleData:
    """A generated dataset in COCO's format.

    Attributes:
        folder: The folder, with ``annotations/train.json``, ``annotations/val.json``, ``train/``
            and ``val/``.
        num_images: Number of training images.
        num_boxes: Number of their boxes.
        num_val_images: Number of validation images.
    """

    folder: Path
    num_images: int
    num_boxes: int
    num_val_images: int

    def annotations(self, split: str) -> Path:
        """Returns the annotation file of a split."""
        return self.folder / 'annotations' / f'{split}.json'

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return [f'class {label}' for label in range(NUM_CLASSES)]


def make_scale_data(parent: str | Path, num_images: int, seed: int = 0) -> ScaleData:
    """Makes a dataset like COCO, unless the folder already has it.

    Images are links to a few dozen photos. There are as many boxes and classes as in COCO for each
    image, 1 % of the boxes are crowds, and some images have none. There are at most as many
    validation images as COCO has. The folder appears complete or not at all.

    Args:
        parent: Folder for this and other such datasets.
        num_images: Number of training images.
        seed: Seed of photos and boxes.
    """
    num_val = max(1, min(round(num_images * COCO_VAL_IMAGES / COCO_IMAGES), COCO_VAL_IMAGES))
    folder = Path(parent).resolve() / f'images_{num_images}_seed_{seed}'
    data = ScaleData(folder, num_images, _num_boxes(num_images), num_val)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix='.making-', dir=folder.parent) as draft:
            whole = Path(draft) / 'whole'
            _write(whole, dict(train=num_images, val=num_val), data.classes, seed)
            os.rename(whole, folder)
    return data


def _num_boxes(num_images: int) -> int:
    return round(num_images * COCO_BOXES / COCO_IMAGES)


def _write(folder: Path, splits: dict[str, int], classes: Sequence[str], seed: int) -> None:
    (folder / 'photos').mkdir(parents=True)
    (folder / 'annotations').mkdir()
    for number in range(_NUM_PHOTOS):
        _draw_photo(folder / 'photos' / f'{number}.jpg', number, seed)
    for index, (split, num_images) in enumerate(splits.items()):
        (folder / split).mkdir()
        rng = np.random.default_rng((seed, index))
        # Neither in order nor without gaps, as in COCO.
        ids = np.sort(rng.choice(5 * num_images, num_images, replace=False)) + 1
        rng.shuffle(ids)
        photos = rng.integers(0, _NUM_PHOTOS, num_images)
        for image_id, photo in zip(ids.tolist(), photos.tolist(), strict=True):
            os.symlink(f'../photos/{photo}.jpg', folder / split / f'{image_id:012d}.jpg')
        sizes = np.array(_SIZES)[photos % len(_SIZES)]
        _write_annotations(folder / 'annotations' / f'{split}.json', ids, sizes, classes, rng)


def _draw_photo(path: Path, number: int, seed: int) -> None:
    """Writes a picture that is as hard to decode as a photo: blurred noise with fine grain."""
    rng = np.random.default_rng((seed, number, 1))
    width, height = _SIZES[number % len(_SIZES)]
    coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    picture += rng.integers(-12, 13, picture.shape, dtype=np.int16)
    cv2.imwrite(str(path), np.clip(picture, 0, 255).astype(np.uint8))


def _write_annotations(
    path: Path,
    ids: np.ndarray,
    sizes: np.ndarray,
    classes: Sequence[str],
    rng: np.random.Generator,
) -> None:
    # Some images have many boxes, and about one in a hundred has none.
    weights = rng.gamma(1.2, size=len(ids))
    counts = rng.multinomial(_num_boxes(len(ids)), weights / weights.sum())
    images = np.repeat(np.arange(len(ids)), counts)
    rng.shuffle(images)
    frames = sizes[images]
    sides = np.maximum(frames * rng.beta(1, 4, (len(images), 2)), 4)
    corners = (frames - sides) * rng.uniform(size=(len(images), 2))
    boxes = np.column_stack([corners, sides]).round(2)
    x1, y1, width, height = boxes.T
    x2, y2 = x1 + width, y1 + height
    columns = (
        np.arange(1, len(images) + 1),
        ids[images],
        np.minimum(rng.geometric(0.05, len(images)), len(classes)),
        rng.uniform(size=len(images)) < _CROWD_SHARE,
        width * height * rng.uniform(0.5, 1, len(images)),
        *boxes.T,
        *(x1, y1, x2, y1, x2, y2, x1, y2),
    )
    with path.open('w') as file:
        file.write('{"images": [\n')
        _write_entries(file, _IMAGE, (ids, *sizes.T, ids))
        file.write('],\n"annotations": [\n')
        _write_entries(file, _ANNOTATION, columns)
        file.write('],\n"categories": [\n')
        category = '{"id": %d, "name": "%s"}'
        file.write(',\n'.join(category % (i, name) for i, name in enumerate(classes, start=1)))
        file.write(']}\n')


def _write_entries(file, form: str, columns: Sequence[np.ndarray]) -> None:
    for begin in range(0, len(columns[0]), _CHUNK):
        parts: Iterable = zip(*(c[begin : begin + _CHUNK].tolist() for c in columns), strict=True)
        file.write(',\n' * (begin > 0) + ',\n'.join(form % part for part in parts))


def write_config(
    data: ScaleData, path: str | Path, base: str, batch_size: int, workers: int, peer: bool
) -> None:
    """Writes a config that trains on the dataset for an epoch.

    Args:
        data: The dataset.
        path: The file to write.
        base: Config that has the rest of it.
        batch_size: Images of a batch of each training process.
        workers: Loading processes of each training process.
        peer: Whether mmdet's dataset and metric take the place of those of this project.
    """
    dataset = dict(
        type='CocoDataset' if peer else 'ClassNameCocoDataset',
        data_root=f'{data.folder}/',
        metainfo=dict(classes=data.classes),
    )
    loader = dict(num_workers=workers, persistent_workers=workers > 0)
    splits = {
        split: dict(ann_file=f'annotations/{split}.json', data_prefix=dict(img=f'{split}/'))
        for split in ('train', 'val')
    }
    settings = dict(
        train_dataloader=dict(
            loader, batch_size=batch_size, dataset=dict(dataset, **splits['train'])
        ),
        val_dataloader=dict(loader, dataset=dict(dataset, **splits['val'])),
        val_evaluator=dict(type='CocoMetric' if peer else 'ClassNameCocoMetric'),
        model=dict(bbox_head=dict(num_classes=NUM_CLASSES)),
        train_cfg=dict(max_epochs=1, val_interval=1),
        default_hooks=dict(logger=dict(interval=LOGGED_STEPS)),
    )
    lines = [f'_base_ = {base!r}', *(f'{name} = {value!r}' for name, value in settings.items())]
    write_text(path, '\n'.join([*lines, 'test_dataloader = val_dataloader', '']))
