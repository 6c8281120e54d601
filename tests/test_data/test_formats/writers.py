"""Writes one known set of boxes as a dataset in each format."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

CLASSES = ('cat', 'grey wolf', '狐')


@dataclass
class Known:
    """A picture and its boxes.

    Attributes:
        split: The split that it belongs to.
        name: Path below the image folder of the split.
        size: Width and height as it is shown.
        boxes: Class name, x, y, width and height in whole pixels.
    """

    split: str
    name: str
    size: tuple[int, int]
    boxes: list[tuple[str, int, int, int, int]]

    @property
    def stem(self) -> str:
        return str(PurePosixPath(self.name).with_suffix(''))


def random_pictures(rng: random.Random, splits=('train', 'val'), count=5) -> list[Known]:
    """Returns pictures with odd names, endings and sizes; some have no boxes."""
    stems = [
        'a b',
        'décor ü',
        '日本',
        'x.y',
        "it's",
        'camera 1/001',
        'camera 2/001',
        'UPPER',
        '100%',
    ]
    endings = ['.jpg', '.JPG', '.jpeg', '.png', '.bmp', '.webp']
    pictures = []
    for split in splits:
        for index, stem in enumerate(rng.sample(stems, count)):
            width, height = rng.randrange(31, 80), rng.randrange(31, 80)
            boxes = []
            # The first has boxes of all classes, so that every class is known to every format.
            for name in CLASSES if index == 0 else rng.choices(CLASSES, k=rng.randrange(4)):
                w, h = rng.randrange(2, width), rng.randrange(2, height)
                box = (name, rng.randrange(width - w), rng.randrange(height - h), w, h)
                if box not in boxes:
                    boxes.append(box)
            folder, _, name = stem.rpartition('/')
            name = f'{folder}/{split} {name}' if folder else f'{split} {name}'
            pictures.append(Known(split, name + rng.choice(endings), (width, height), boxes))
    return pictures


def write_pictures(rng: random.Random, folder: Path, store: Path, pictures: list[Known]) -> None:
    """Writes pictures to ``folder/SPLIT``, some turned by EXIF, some as links."""
    for index, known in enumerate(pictures):
        path = folder / known.split / known.name
        path.parent.mkdir(parents=True, exist_ok=True)
        width, height = known.size
        exif = Image.Exif()
        if path.suffix.lower() in ('.jpg', '.jpeg') and rng.random() < 0.5:
            exif[0x0112] = 6
            width, height = height, width
        image = Image.fromarray(np.full((height, width, 3), index * 9, np.uint8))
        if rng.random() < 0.3:
            target = store / f'{index}{path.suffix}'
            target.parent.mkdir(parents=True, exist_ok=True)
            image.save(target, exif=exif)
            path.symlink_to(target)
        else:
            image.save(path, exif=exif)


def write_coco(rng: random.Random, root: Path, pictures: list[Known], way: str) -> None:
    """Writes an annotation file for each split, with entries as different tools leave them."""
    write_pictures(rng, root / 'images', root.parent / 'store', pictures)
    first = rng.choice([0, 1, 1000])
    for split in {known.split for known in pictures}:
        content = dict(
            images=[],
            annotations=[],
            categories=[dict(id=first + 2 * i, name=name) for i, name in enumerate(CLASSES)],
        )
        for image_id, known in enumerate(k for k in pictures if k.split == split):
            width, height = known.size
            image = dict(id=image_id, file_name=known.name, width=width, height=height)
            if way == 'backslashes':
                image['file_name'] = f'..\\images\\{split}\\' + known.name.replace('/', '\\')
            elif way == 'quoted':
                image['file_name'] = quote(known.name)
            elif way == 'server':
                image['file_name'] = f'/mnt/disk/project/{known.name}'
            elif way == 'urls':
                image['coco_url'] = f'http://server/{split}/' + quote(image.pop('file_name'))
            elif way == 'no sizes':
                del image['width'], image['height']
            content['images'].append(image)
            for name, x, y, w, h in known.boxes:
                entry = dict(
                    id=len(content['annotations']),
                    image_id=image_id,
                    category_id=first + 2 * CLASSES.index(name),
                    bbox=[x, y, w, h],
                    iscrowd=0,
                )
                if way == 'polygons':
                    entry['bbox'] = []
                    entry['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
                elif way == 'masks':
                    del entry['bbox']
                    mask = np.zeros((height, width), np.uint8, order='F')
                    mask[y : y + h, x : x + w] = 1
                    encoded = coco_mask.encode(mask)
                    entry['segmentation'] = dict(encoded, counts=encoded['counts'].decode())
                content['annotations'].append(entry)
        path = root / 'annotations' / f'instances_{split}.json'
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content), 'utf-8-sig' if way == 'mark' else 'utf-8')


def write_labels(path: Path, known: Known, numbers: dict[str, int], way: str) -> None:
    """Writes a label file of YOLO."""
    lines = []
    for name, x, y, w, h in known.boxes:
        width, height = known.size
        centre = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
        x1, y1, x2, y2 = x / width, y / height, (x + w) / width, (y + h) / height
        values = {
            'polygons': [x1, y1, x2, y1, x2, y2, (x1 + x2) / 2, y2, x1, y2],
            'oriented': [x1, y1, x2, y1, x2, y2, x1, y2],
            'poses': [*centre, x1, y1, x2, y2],
        }.get(way, centre)
        lines.append(' '.join([str(numbers[name]), *(f'{value:.6f}' for value in values)]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines))


def write_yolo(rng: random.Random, root: Path, pictures: list[Known], way: str) -> None:
    """Writes a data.yaml, pictures and label files."""
    write_pictures(rng, root / 'images', root.parent / 'store', pictures)
    numbers = {name: rng.randrange(9) + 10 * index for index, name in enumerate(CLASSES)}
    lines = ['names:', *(f'  {number}: {name}' for name, number in numbers.items())]
    for known in pictures:
        write_labels(root / 'labels' / known.split / f'{known.stem}.txt', known, numbers, way)
    for split in {known.split for known in pictures}:
        lines.append(f'{split}: images/{split}')
        if way == 'lists':
            names = [f'./images/{split}/{k.name}' for k in pictures if k.split == split]
            (root / f'{split}.txt').write_text('\n'.join(names))
            lines[-1] = f'{split}: {split}.txt'
    if way == 'poses':
        lines.append('kpt_shape: [2, 2]')
    (root / 'data.yaml').write_text('\n'.join(lines), 'utf-8')


def write_darknet(rng: random.Random, root: Path, pictures: list[Known], way: str) -> None:
    """Writes label files beside the pictures, and obj.data or classes.txt."""
    write_pictures(rng, root, root.parent / 'store', pictures)
    numbers = {name: index for index, name in enumerate(CLASSES)}
    for known in pictures:
        write_labels(root / known.split / f'{known.stem}.txt', known, numbers, '')
    if way == 'classes.txt':
        (root / 'classes.txt').write_text('\n'.join(CLASSES), 'utf-8')
        return
    (root / 'obj.names').write_text('\n'.join(CLASSES), 'utf-8')
    lines = ['classes = 3', 'names = data/obj.names', 'backup = backup/']
    for split in {known.split for known in pictures}:
        names = [f'data/{split}/{known.name}' for known in pictures if known.split == split]
        (root / f'{split}.txt').write_text('\n'.join(names))
        lines.append(f'{dict(val="valid").get(split, split)} = data/{split}.txt')
    (root / 'obj.data').write_text('\n'.join(lines))


def write_voc(rng: random.Random, root: Path, pictures: list[Known], way: str) -> None:
    """Writes XML files beside the pictures, or as the challenge has them."""
    images = root / ('JPEGImages' if way == 'ImageSets' else '')
    write_pictures(rng, images, root.parent / 'store', pictures)
    for known in pictures:
        objects = ''.join(
            f'<object><name>{escape(name)}</name><bndbox><ymin>{y}</ymin><xmin>{x}</xmin>'
            f'<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>'
            for name, x, y, w, h in known.boxes
        )
        size = '<size><width>{}</width><height>{}</height><depth>3</depth></size>'
        text = (
            f'<annotation><filename>{escape(PurePosixPath(known.name).name)}</filename>'
            f'{size.format(*known.size) if rng.random() < 0.7 else ""}{objects}</annotation>'
        )
        folder = root / ('Annotations' if way == 'ImageSets' else '') / known.split
        path = folder / f'{known.stem}.xml'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, 'utf-8')
    if way == 'ImageSets':
        lists = root / 'ImageSets/Main'
        lists.mkdir(parents=True)
        for split in {known.split for known in pictures}:
            stems = [f'{split}/{known.stem}' for known in pictures if known.split == split]
            (lists / f'{split}.txt').write_text('\n'.join(stems))


def write_labelme(rng: random.Random, root: Path, pictures: list[Known], way: str) -> None:
    """Writes a JSON file of shapes beside each picture."""
    write_pictures(rng, root, root.parent / 'store', pictures)
    for known in pictures:
        shapes = []
        for name, x, y, w, h in known.boxes:
            corners = [[x, y], [x + w, y + h]]
            rng.shuffle(corners)
            if way == 'polygons':
                corners = [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]
            kind = 'polygon' if way == 'polygons' else 'rectangle'
            shapes.append(dict(label=name, points=corners, shape_type=kind))
        path = root / known.split / f'{known.stem}.json'
        content = dict(
            version='5.4.1',
            shapes=shapes,
            imagePath=PurePosixPath(known.name).name,
            imageData=None,
            imageWidth=known.size[0],
            imageHeight=known.size[1],
        )
        path.write_text(json.dumps(content))


WRITERS = {
    **{
        ('COCO', way): write_coco
        for way in (
            '', 'backslashes', 'quoted', 'server', 'urls', 'no sizes', 'polygons', 'masks', 'mark'
        )
    },
    **{
        ('YOLO', way): write_yolo for way in ('', 'polygons', 'oriented', 'poses', 'lists')
    },
    **{('darknet', way): write_darknet for way in ('obj.data', 'classes.txt')},
    **{('Pascal VOC', way): write_voc for way in ('beside', 'ImageSets')},
    **{('labelme', way): write_labelme for way in ('', 'polygons')},
}  # fmt: skip
