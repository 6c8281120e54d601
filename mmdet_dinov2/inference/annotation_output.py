"""Predictions as a COCO annotation file, to correct in a labeling tool and to train on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from ..data.predicted_boxes import FIELD, one_box_per_object
from ..data.prediction_output import IMAGES, RESULTS
from ..errors import InputError
from ..files import write_text
from .image_inputs import InputFile

# Files of this name in the folder of a dataset are merged into its training data.
ANNOTATIONS = 'predicted.json'


def check_annotations(out: Path, files: Sequence[InputFile]) -> None:
    """Checks, before anything is predicted, that predictions can become annotations.

    Raises:
        InputError: If there is such a file already, which may have been corrected since, or a
            video or camera is predicted on.
    """
    path = out / ANNOTATIONS
    if path.exists():
        raise InputError(
            f'{path} exists and may have been corrected since, so it is not replaced; move it, or '
            'choose a different folder with --out'
        )
    videos = [file for file in files if file.is_video]
    if videos:
        raise InputError(
            f'--as-annotations writes annotations of photos, but {videos[0].path} is a video or a '
            'camera; give photos, such as frames of it'
        )


def write_annotations(out: Path, files: Sequence[InputFile]) -> Path:
    """Writes the predictions of an output folder as COCO annotations.

    Every annotation has ``predicted: true`` and the ``score`` of the detector. Of detections of the
    same object, the best one becomes an annotation. File names are relative to the folder that
    holds all photos, which is ``info.folder``.

    Args:
        out: The folder, with the results of :class:`.PredictionFiles`.
        files: The photos.

    Returns:
        The file.

    Raises:
        InputError: If it cannot be written.
    """
    images = json.loads((out / IMAGES).read_bytes())
    results = json.loads((out / RESULTS).read_bytes())
    paths = {file.name: os.path.abspath(file.path) for file in files}
    folder = os.path.commonpath([os.path.dirname(path) for path in paths.values()])
    for image in images['images']:
        image['file_name'] = os.path.relpath(paths[image['file_name']], folder)
    annotations = []
    for number, result in enumerate(_of_objects(results), 1):
        width, height = result['bbox'][2:]
        annotation = dict(id=number, area=width * height, iscrowd=0)
        annotations.append({**annotation, FIELD: True, **result})
    content = dict(
        info=dict(description='predicted by mmdet_dinov2, to be corrected', folder=folder),
        images=images['images'],
        annotations=annotations,
        categories=images['categories'],
    )
    write_text(out / ANNOTATIONS, json.dumps(content))
    return out / ANNOTATIONS


def _of_objects(results: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yields the best detection of each object, in the order of the detections."""
    for _, found in groupby(results, itemgetter('image_id')):
        found = list(found)
        corners = torch.tensor([result['bbox'] for result in found], dtype=torch.float64)
        corners[:, 2:] += corners[:, :2]
        scores = torch.tensor([result['score'] for result in found], dtype=torch.float64)
        for row in sorted(one_box_per_object(corners, scores).tolist()):
            yield found[row]
