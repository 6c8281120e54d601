"""Predictions as files: COCO results, CSV, pictures and videos with boxes."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmdet.structures import DetDataSample

from ..data.coco_file import CocoFile
from ..data.yolo import IMAGE_SUFFIXES
from ..errors import InputError
from ..files import whole_file, write_text
from ..wording import name_some

RESULTS, IMAGES, TABLE = 'predictions.json', 'images.json', 'predictions.csv'
_HEADINGS = ('image', 'class', 'score', 'x1', 'y1', 'x2', 'y2')


class PredictionFiles:
    """Collects predictions and writes them as COCO results and CSV.

    ``predictions.json`` holds a list of results in COCO's format. ``images.json`` holds the images
    and categories that their ids refer to: ``COCO('images.json').loadRes('predictions.json')``
    works. ``predictions.csv`` has a line for each detection, with its corners in pixels.

    Args:
        classes: Class names, in the order of the labels.
        annotations: Annotation file whose image ids (by file name) and category ids (by name) are
            used; without it both count from 1.

    Raises:
        InputError: If ``annotations`` lacks a class.
    """

    def __init__(self, classes: Sequence[str], annotations: CocoFile | None = None) -> None:
        self.classes = tuple(classes)
        self._category_ids = {name: index + 1 for index, name in enumerate(classes)}
        self._image_ids: dict[str, int] | None = None
        if annotations is not None:
            self._category_ids = {c['name']: c['id'] for c in annotations.categories}
            missing = [name for name in classes if name not in self._category_ids]
            if missing:
                raise InputError(
                    f"'{annotations.path}' must have the categories of the detector, but lacks "
                    f'{name_some(missing)}; it has {name_some(annotations.category_names)}'
                )
            self._image_ids = {im['file_name']: im['id'] for im in annotations.images}
        self._images: list[dict] = []
        self._results: list[dict] = []
        self._rows: list[tuple] = []

    def check_names(self, names: Sequence[str]) -> None:
        """Checks that the annotation file, if there is one, lists all images.

        Args:
            names: File names of the images.

        Raises:
            InputError: If it lacks one of them.
        """
        if self._image_ids is not None:
            missing = [name for name in names if name not in self._image_ids]
            if missing:
                raise InputError(
                    f'the annotation file does not list {missing[0]!r} ({len(missing)} of '
                    f'{len(names)} images are missing); file names must be the same'
                )

    def add(self, name: str, sample: DetDataSample) -> None:
        """Adds the detections of an image, under its file name."""
        height, width = sample.ori_shape
        ids = self._image_ids
        image_id = len(self._images) + 1 if ids is None else ids[name]
        self._images.append(dict(id=image_id, file_name=name, width=width, height=height))
        found = sample.pred_instances
        for box, label, score in zip(
            found.bboxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
        ):
            x1, y1, x2, y2 = box
            class_name = self.classes[label]
            self._results.append(
                dict(
                    image_id=image_id,
                    category_id=self._category_ids[class_name],
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    score=score,
                )
            )
            corners = (f'{value:.2f}' for value in box)
            self._rows.append((name, class_name, f'{score:.4f}', *corners))

    def write(self, folder: Path) -> None:
        """Writes the three files, each of them whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        categories = [dict(id=self._category_ids[name], name=name) for name in self.classes]
        listing = dict(images=self._images, annotations=[], categories=categories)
        write_text(folder / RESULTS, json.dumps(self._results) + '\n')
        write_text(folder / IMAGES, json.dumps(listing) + '\n')
        with whole_file(folder / TABLE) as partial, partial.open('w', newline='') as file:
            writer = csv.writer(file)
            writer.writerow(_HEADINGS)
            writer.writerows(self._rows)


class VideoFile:
    """A video file that is written picture by picture.

    Args:
        path: The .mp4 file.
        fps: Frames per second.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None

    def append(self, picture: np.ndarray) -> None:
        """Appends a picture of H x W x 3, uint8, BGR, of the same size as the first one.

        Raises:
            OSError: If the video cannot be written.
        """
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            size = picture.shape[1::-1]
            codec = cv2.VideoWriter_fourcc(*'mp4v')
            self._writer = cv2.VideoWriter(str(self.path), codec, self._fps, size)
            if not self._writer.isOpened():
                raise OSError(
                    f'video {self.path} cannot be written: OpenCV does not have an encoder for mp4'
                )
        self._writer.write(picture)

    def close(self) -> None:
        """Finishes the file."""
        if self._writer is not None:
            self._writer.release()


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Writes a picture, H x W x 3, uint8, BGR, in the format of its suffix.

    Without the suffix of an image format, ``.jpg`` is appended to the name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        path = path.with_name(f'{path.name}.jpg')
    # Not cv2.imwrite, which does not raise an error when the disk is full.
    _, data = cv2.imencode(path.suffix, picture)
    path.write_bytes(data.tobytes())
