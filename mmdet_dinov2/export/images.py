"""Images to prove and to calibrate exported files with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.annotation_file import read_annotations
from ..data.coco_file import category_ids, leaves_folder
from ..data.data_folder import IMAGE_SUFFIXES, DataFolder
from ..data.dataset_source import iter_dataset_configs, read_source
from ..data.shapes_drawing import draw_picture
from ..errors import InputError
from ..inference import Detector


@dataclass(frozen=True)
class Truth:
    """The annotations of an image.

    Attributes:
        boxes: ``x, y, width, height`` in pixels of the image, (M, 4).
        labels: Classes, (M,).
        crowd: Whether each is a crowd region, (M,).
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray


@dataclass(frozen=True)
class ProofImage:
    """An image to compare a detector and an exported file on.

    Attributes:
        source: Path of a file, or pixels, (H, W, 3) uint8 BGR.
        truth: Its annotations, if there are any.
    """

    source: str | np.ndarray
    truth: Truth | None = None


def images_of_split(
    cfg: Mapping[str, Any], split: str, classes: Sequence[str], count: int
) -> list[ProofImage]:
    """Returns images of a split with their annotations, evenly spread over its annotation files.

    Args:
        cfg: Config with the dataloader of the split.
        split: 'train' or 'val'.
        classes: Class names, in the order of the labels.
        count: Number of images; 0 for all.

    Returns:
        The images; none if the config has no dataset in COCO's format for the split.

    Raises:
        FileNotFoundError: If a file is missing.
        InputError: If a file cannot be used.
    """
    images: list[ProofImage] = []
    for key, dataset in iter_dataset_configs(cfg, split):
        source = read_source(split, key, dataset)
        if source.image_folder is None or not source.ann_file:
            continue
        images += _images_of_file(source.ann_file, source.image_folder, classes)
    return spread(images, count)


def images_of_folder(folder: Path, count: int) -> list[ProofImage]:
    """Returns the images in a folder and its subfolders, without annotations.

    Raises:
        InputError: If there are none.
    """
    if folder.is_file():
        raise InputError(f'{folder} is a file; name the folder of the images')
    if not folder.is_dir():
        raise FileNotFoundError(f'folder {folder} does not exist; check the path')
    found = [path for path in DataFolder(folder).files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise InputError(
            f'folder {folder} has no images; looked for files that end in '
            f'{" ".join(IMAGE_SUFFIXES)}'
        )
    return spread([ProofImage(str(path)) for path in sorted(found)], count)


def drawn_images(count: int) -> list[ProofImage]:
    """Draws pictures of many sizes, always the same ones."""
    rng = np.random.default_rng(0)
    return [ProofImage(draw_picture(rng, 5)[0]) for _ in range(count)]


def spread(images: Sequence[Any], count: int) -> list[Any]:
    """Returns ``count`` items, evenly spread; 0 for all."""
    if not count or count >= len(images):
        return list(images)
    return [images[index * len(images) // count] for index in range(count)]


def network_input(detector: Detector, image: ProofImage) -> tuple[Tensor, tuple[float, float]]:
    """Returns what the model is given for an image.

    Args:
        detector: The detector, with its test pipeline.
        image: The image.

    Returns:
        The resized and normalised image (1, 3, H, W), and the factors of width and height.
    """
    data = detector.transform(image.source)
    sample = data['data_samples']
    batch = detector.model.data_preprocessor(dict(inputs=[data['inputs']], data_samples=[sample]))
    height, width = sample.img_shape[:2]
    scale = tuple(sample.metainfo.get('scale_factor', (1.0, 1.0)))
    # A config may ask for padding, which is no part of the image.
    return batch['inputs'][:, :, :height, :width].contiguous(), scale


def other_sizes(images: Sequence[Tensor], smallest: int) -> list[Tensor]:
    """Makes batches that the images alone would not cover.

    Args:
        images: Inputs (1, 3, H, W).
        smallest: Smallest side that a graph must take.

    Returns:
        Batches of 3 of an image and its mirror images; a piece whose sides are no multiple of
        anything; a small one; and one that is much wider than high, where an image is large enough.
    """
    batches = []
    for image in images[:2]:
        batches.append(torch.cat((image, image.flip(3), image.flip(2))))
        height, width = image.shape[2:]
        for sides in (
            (_odd(height - 5), _odd(width - 9)),
            (smallest, smallest + 1),
            (smallest, width),
        ):
            if min(sides) >= smallest and sides[0] <= height and sides[1] <= width:
                batches.append(image[:, :, : sides[0], : sides[1]].contiguous())
    return batches


def _odd(number: int) -> int:
    return number - (number % 2 == 0)


def _images_of_file(ann_file: str, image_folder: str, classes: Sequence[str]) -> list[ProofImage]:
    coco = read_annotations(ann_file, sizes=False)
    labels = {key: label for label, key in enumerate(category_ids(coco, classes))}
    label_of = np.array([labels.get(category['id'], -1) for category in coco.categories])
    images = []
    for index, file_name in enumerate(coco.file_names):
        if leaves_folder(image_folder, file_name):
            raise InputError(
                f"'{ann_file}' names the image {file_name!r} outside of {image_folder}"
            )
        own = coco.annotations_of(index)
        own = own[coco.category_index[own] >= 0]
        own = own[label_of[coco.category_index[own]] >= 0]
        truth = Truth(coco.boxes[own], label_of[coco.category_index[own]], coco.crowd[own])
        path = os.path.join(image_folder, file_name)
        images.append(ProofImage(path, truth if coco.annotated else None))
    return images
