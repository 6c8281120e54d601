"""Predictions as files: COCO results, CSV, pictures and videos with boxes and masks."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from mmdet.structures import DetDataSample

from ..data.annotation_columns import AnnotationColumns
from ..data.prediction_output import IMAGES, RESULTS, TABLE, images_head
from ..errors import InputError
from ..instance_masks import RunLengths, as_text, decode_mask, mask_areas, run_lengths
from ..mask_outlines import mask_polygons
from ..wording import name_some
from .growing_file import GrowingFile
from .output_folder import keeps_pictures

# Formats that OpenCV writes in any build.
_MAX_FRACTIONAL_FPS = 65.0  # in thousandths of a frame
_PICTURE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
_HEADINGS = ('image', 'class', 'score', 'x1', 'y1', 'x2', 'y2')
# Pixels by which polygons may be off the border of a mask: steps along pixels become lines.
_TOLERANCE = 1.0


class PredictionFiles:
    """Writes predictions as COCO results and CSV, image by image.

    ``predictions.json`` holds a list of results in COCO's format. ``images.json`` holds the images
    and categories that their ids refer to: ``COCO('images.json').loadRes('predictions.json')``
    works. ``predictions.csv`` has a line for each detection, with its corners in pixels. All three
    are complete after each image. Those of an earlier prediction are replaced with the first image.

    Masks are ``segmentation`` in COCO's run lengths, or polygons, and the table has the number of
    their pixels as ``area``.

    Args:
        folder: Where to write.
        classes: Class names, in the order of the labels.
        annotations: Annotation file whose image ids (by file name) and category ids (by name) are
            used; without it both count from 1.
        draws: Whether pictures are drawn into the folder, too.
        polygons: Whether masks are written as polygons, which may be a pixel off the border of the
            mask.

    Raises:
        InputError: If ``annotations`` lacks a class.
    """

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        annotations: AnnotationColumns | None = None,
        draws: bool = True,
        polygons: bool = False,
    ) -> None:
        self.folder = folder
        self.classes = tuple(classes)
        self._draws = draws
        self._polygons = polygons
        self._with_masks = False  # what the first image says
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
            self._image_ids = dict(zip(annotations.file_names, annotations.image_ids, strict=True))
        self._num_images = 0
        self._files: tuple[GrowingFile, GrowingFile, GrowingFile] | None = None

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
        """Writes the detections of an image, under its file name.

        Raises:
            InputError: If they cannot be written. The files are as they were before.
        """
        height, width = sample.ori_shape
        ids = self._image_ids
        image_id = self._num_images + 1 if ids is None else ids[name]
        image = dict(id=image_id, file_name=name, width=width, height=height)
        found = sample.pred_instances
        if self._files is None:
            self._with_masks = 'masks' in found
        masks = run_lengths(found.masks) if 'masks' in found else []
        areas = mask_areas(masks).tolist()
        results, rows = [], []
        for index, (box, label, score) in enumerate(
            zip(found.bboxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True)
        ):
            x1, y1, x2, y2 = box
            class_name = self.classes[label]
            results.append(
                dict(
                    image_id=image_id,
                    category_id=self._category_ids[class_name],
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    score=score,
                )
            )
            corners = (f'{value:.2f}' for value in box)
            row = [name, class_name, f'{score:.4f}', *corners]
            if masks:
                results[-1]['segmentation'] = self._segmentation(masks[index])
                results[-1]['area'] = areas[index]
                row.append(str(areas[index]))
            rows.append(row)
        with self._writing():
            images, detections, table = self._opened()
            written: list[GrowingFile] = []
            try:
                # Results refer to images: a program that is killed in between leaves a valid pair.
                for file, part in (
                    (images, _json_entries([image])),
                    (detections, _json_entries(results)),
                    (table, _csv_lines(rows)),
                ):
                    file.append(part)
                    written.append(file)
            except BaseException:
                for file in written:
                    file.undo()
                raise
        self._num_images += 1

    def _segmentation(self, mask: RunLengths) -> dict | list:
        """Returns a mask as COCO's results have it."""
        if self._polygons:
            return mask_polygons(decode_mask(mask), _TOLERANCE)
        return as_text(mask)

    def close(self) -> None:
        """Closes the files. Without any image they are empty, unless there are earlier ones."""
        if self._files is None and not (self.folder / IMAGES).exists():
            with self._writing():
                self._opened()
        for file in self._files or ():
            file.close()

    def _opened(self) -> tuple[GrowingFile, GrowingFile, GrowingFile]:
        if self._files is None:
            categories = [dict(id=self._category_ids[name], name=name) for name in self.classes]
            head = (
                f'{images_head(keeps_pictures(self.folder, self._draws))}, "annotations": [], '
                f'"categories": {json.dumps(categories)}, "images": ['
            )
            headings = (*_HEADINGS, 'area') if self._with_masks else _HEADINGS
            self._files = (
                GrowingFile(self.folder / IMAGES, f'{head}\n'.encode(), b'\n]}\n', b',\n'),
                GrowingFile(self.folder / RESULTS, b'[\n', b'\n]\n', b',\n'),
                GrowingFile(self.folder / TABLE, _csv_lines([headings])),
            )
        return self._files

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f'the results in {self.folder} cannot be written ({error.strerror or error}); '
                'those of earlier images are kept; make room or choose another folder with --out'
            ) from error


def _json_entries(entries: Sequence[dict]) -> bytes:
    return ',\n'.join(map(json.dumps, entries)).encode()


def _csv_lines(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline='')
    csv.writer(text).writerows(rows)
    return text.getvalue().encode('utf-8')


class VideoFile:
    """A video file that is written picture by picture.

    Args:
        path: The .mp4 file.
        fps: Frames per second.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        # MPEG-4 counts time in fractions of a second whose denominator has 16 bits.
        self._fps = fps if fps <= _MAX_FRACTIONAL_FPS else round(fps)
        self._writer: cv2.VideoWriter | None = None

    def append(self, picture: np.ndarray) -> None:
        """Appends a picture of H x W x 3, uint8, BGR, of the same size as the first one.

        Raises:
            OSError: If the video cannot be written.
        """
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            name = os.fsencode(self.path).decode('utf-8', 'replace')
            if name != str(self.path):
                raise OSError('OpenCV takes names in UTF-8 only, those of folders too')
            size = picture.shape[1::-1]
            codec = cv2.VideoWriter_fourcc(*'mp4v')
            self._writer = cv2.VideoWriter(str(self.path), codec, self._fps, size)
            if not self._writer.isOpened():
                raise OSError(
                    f'OpenCV cannot write an mp4 of {size[0]} x {size[1]} pixels and '
                    f'{self._fps:g} frames a second there'
                )
        self._writer.write(picture)

    def close(self) -> None:
        """Finishes the file."""
        if self._writer is not None:
            self._writer.release()


def picture_name(name: str) -> str:
    """Returns the name of the picture of an image: its own if OpenCV writes that format."""
    return name if name.lower().endswith(_PICTURE_SUFFIXES) else f'{name}.jpg'


def video_name(name: str) -> str:
    """Returns the name of the video with the boxes of a video."""
    return name if name.endswith('.mp4') else f'{name}.mp4'


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Writes a picture, H x W x 3, uint8, BGR, in the format of its suffix.

    Raises:
        OSError: If it cannot be written. No part of it is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not cv2.imwrite, which does not raise an error when the disk is full.
    done, data = cv2.imencode(path.suffix, picture)
    if not done:
        height, width = picture.shape[:2]
        raise OSError(f'OpenCV cannot write {width} x {height} pixels as {path.suffix}')
    try:
        path.write_bytes(data.tobytes())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
