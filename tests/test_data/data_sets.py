"""Datasets of a few small images on disk, in the usual layouts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import yaml

from .helpers import coco_content


def write_images(folder: Path, content: dict) -> None:
    """Writes the images of a COCO dict, noise that no two files have in common."""
    for image in content['images']:
        path = folder / image['file_name']
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(list(os.fsencode(path)))
        shape = image['height'], image['width'], 3
        cv2.imwrite(str(path), noise.integers(256, size=shape, dtype=np.uint8))


def write_coco(ann_file: Path, images: Path, num_images: int = 3, prefix: str = '') -> dict:
    """Writes a COCO file and its images, whose names are ``prefix`` and a number."""
    content = coco_content(num_images)
    for image in content['images']:
        image['file_name'] = prefix + image['file_name']
    ann_file.parent.mkdir(parents=True, exist_ok=True)
    ann_file.write_text(json.dumps(content))
    write_images(images, content)
    return content


def write_yolo(root: Path, splits: dict[str, dict], image_folder: str = 'images/{split}') -> Path:
    """Writes COCO dicts as a YOLO dataset.

    Args:
        root: Folder to create.
        splits: A COCO dict for each split; its images are linked if an entry ``folder`` says where
            they are, else written.
        image_folder: Folder of the images of a split, below ``root``.

    Returns:
        The data.yaml.
    """
    data = {}
    for split, content in splits.items():
        folder = root / image_folder.format(split=split)
        folder.mkdir(parents=True, exist_ok=True)
        if 'folder' in content:
            for image in content['images']:
                (folder / image['file_name']).symlink_to(content['folder'] / image['file_name'])
        else:
            write_images(folder, content)
        labels = root / image_folder.replace('images', 'labels').format(split=split)
        labels.mkdir(parents=True, exist_ok=True)
        order = [category['id'] for category in content['categories']]
        for image in content['images']:
            w, h = image['width'], image['height']
            lines = [
                f'{order.index(a["category_id"])} {(a["bbox"][0] + a["bbox"][2] / 2) / w:.6f} '
                f'{(a["bbox"][1] + a["bbox"][3] / 2) / h:.6f} {a["bbox"][2] / w:.6f} '
                f'{a["bbox"][3] / h:.6f}'
                for a in content['annotations']
                if a['image_id'] == image['id']
            ]
            (labels / f'{Path(image["file_name"]).stem}.txt').write_text('\n'.join(lines))
        data[split] = folder.relative_to(root).as_posix()
        data['names'] = [category['name'] for category in content['categories']]
    path = root / 'data.yaml'
    path.write_text(yaml.safe_dump(data))
    return path
