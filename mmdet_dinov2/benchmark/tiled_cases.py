"""Detection in tiles of large images, by this project and by sahi: measurements."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config

from ..checkpoint import read_checkpoint
from ..checkpoint.embedded_config import embedded_config
from ..checkpoint.load_detector import checkpoint_classes
from ..errors import InputError
from ..inference import load
from ..peak_memory import PeakMemory
from .timing import measure_in_turns

METHODS = ('ours', 'sahi')
# Of glibc's malloc.h: from how many bytes an allocation has pages of its own.
_M_MMAP_THRESHOLD = -3
# Image, x1, y1, x2, y2, score, label.
Rows = list[list[float]]
Predict = Callable[[Sequence[str], float], Rows]


def require_sahi() -> None:
    """Raises an InputError if sahi is not installed."""
    if importlib.util.find_spec('sahi') is None:
        raise InputError('the comparison needs the package sahi: pip install sahi')


def tiled_times(
    checkpoint: str, images: Sequence[str], tile: dict, device: str, repeats: int, scores: dict
) -> dict:
    """Times both methods in turns on the same images, and returns what they find.

    Args:
        checkpoint: Checkpoint of the detector, with its config.
        images: Image files.
        tile: ``size``, ``overlap`` and ``scale`` of the tiles.
        device: 'cpu' or 'cuda'.
        repeats: Number of timed rounds.
        scores: Lowest scores of detections: ``timed`` and ``found``.

    Returns:
        ``seconds`` of an image, a list for each method, and ``found``, the detections of each.
    """
    with tempfile.TemporaryDirectory() as folder:
        methods = {name: _method(name, checkpoint, tile, device, Path(folder)) for name in METHODS}
        runs = {
            name: partial(predict, images, scores['timed']) for name, predict in methods.items()
        }
        times = measure_in_turns(runs, repeats, device)
        found = {name: predict(images, scores['found']) for name, predict in methods.items()}
    seconds = {name: [time / len(images) for time in rounds] for name, rounds in times.items()}
    return dict(seconds=seconds, found=found)


def tiled_memory(
    method: str, checkpoint: str, warm_up: str, images: Sequence[str], tile: dict, device: str
) -> dict:
    """Measures the peak memory of a method, without that of its detector.

    Args:
        method: One of ``METHODS``.
        checkpoint: As for :func:`tiled_times`.
        warm_up: A small image file, predicted before.
        images: As for :func:`tiled_times`.
        tile: As for :func:`tiled_times`.
        device: As for :func:`tiled_times`.

    Returns:
        ``mib``, of memory in use.
    """
    _return_memory_at_once()
    with tempfile.TemporaryDirectory() as folder:
        predict = _method(method, checkpoint, tile, device, Path(folder))
        predict([warm_up], 0.3)
        memory = PeakMemory(device)
        predict(images, 0.3)
        return dict(mib=memory.mib())


def _return_memory_at_once() -> None:
    """Makes glibc return freed tensors and pictures to the system.

    Otherwise the memory of a process grows with the number of batches, by holes between what is in
    use, and little would be seen of the size of the image.
    """
    if sys.platform == 'linux':
        set_option = getattr(ctypes.CDLL(None), 'mallopt', None)
        if set_option is not None:
            set_option(_M_MMAP_THRESHOLD, 2**16)


def _method(name: str, checkpoint: str, tile: dict, device: str, folder: Path) -> Predict:
    return (_ours if name == 'ours' else _sahi)(checkpoint, tile, device, folder)


def _ours(checkpoint: str, tile: dict, device: str, folder: Path) -> Predict:
    config = _config(checkpoint, tile, folder)
    detector = load(checkpoint, config, device, tile=tile)

    def predict(images: Sequence[str], score_thr: float) -> Rows:
        rows: Rows = []
        for index, sample in enumerate(detector.predict(list(images), score_thr=score_thr)):
            found = sample.pred_instances
            columns = torch.cat(
                (found.bboxes, found.scores[:, None], found.labels[:, None].float()), 1
            )
            rows += [[index, *row] for row in columns.tolist()]
        return rows

    return predict


def _sahi(checkpoint: str, tile: dict, device: str, folder: Path) -> Predict:
    require_sahi()
    from sahi import AutoDetectionModel
    from sahi.predict import get_sliced_prediction

    model = AutoDetectionModel.from_pretrained(
        model_type='mmdet',
        model_path=checkpoint,
        config_path=_config(checkpoint, tile, folder),
        device=device,
        image_size=_seen_side(tile),
    )

    def predict(images: Sequence[str], score_thr: float) -> Rows:
        rows: Rows = []
        for index, image in enumerate(images):
            result = get_sliced_prediction(
                image,
                model,
                slice_height=tile['size'],
                slice_width=tile['size'],
                overlap_height_ratio=tile['overlap'],
                overlap_width_ratio=tile['overlap'],
                batch_size=8,
                confidence_threshold=score_thr,
                verbose=0,
            )
            for found in result.object_prediction_list:
                box = found.bbox.to_xyxy()
                rows.append([index, *map(float, box), found.score.value, found.category.id])
        return rows

    return predict


def _config(checkpoint: str, tile: dict, folder: Path) -> str:
    """Writes the config of a checkpoint, with a test pipeline that both methods take."""
    size = _seen_side(tile)
    found = read_checkpoint(checkpoint)
    model = embedded_config(found, checkpoint)['model']
    model.pop('tile', None)
    # A tile, and an image as a whole, is what the detector was trained on.
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(size, size), keep_ratio=True),
        dict(
            type='PackDetInputs', meta_keys=('img_path', 'ori_shape', 'img_shape', 'scale_factor')
        ),
    ]
    annotations = dict(type='LoadAnnotations', with_mask=bool(model.get('mask_head')))
    meta = dict(classes=checkpoint_classes(found))
    loader = dict(dataset=dict(type='CocoDataset', metainfo=meta, pipeline=pipeline))
    content = dict(
        default_scope='mmdet',
        custom_imports=dict(imports=['mmdet_dinov2']),
        model=model,
        test_dataloader=loader,
        # Where sahi sees whether the detector finds masks.
        train_dataloader=dict(dataset=dict(type='CocoDataset', pipeline=[annotations])),
        visualizer=dict(type='DetLocalVisualizer'),  # without it, mmdet's inferencer fails
    )
    path = folder / 'config.py'
    Config(content).dump(path)
    return str(path)


def _seen_side(tile: dict) -> int:
    """Returns the side of a tile in pixels as the detector sees it."""
    return round(tile['size'] * tile['scale'])


def found_array(rows: Rows) -> np.ndarray:
    """Returns detections as an array, (N, 7): image, x1, y1, x2, y2, score, label."""
    return np.array(rows, dtype=float).reshape(-1, 7)
