"""Compares detection in tiles of large images with sahi around the same detector."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from ...checkpoint import read_checkpoint
from ...checkpoint.embedded_config import CONFIG_KEY, plain_config, whole_config
from ...config.files import find_config
from ...data.annotation_file import read_annotations
from ...data.seeded import seed_everything
from ...data.shapes import generate_shapes, shapes_annotations
from ...evaluation.coco_evaluation import evaluate_boxes, table_detections
from ...evaluation.evaluated_boxes import EvaluatedBoxes, found_boxes, true_boxes_of_file
from ...evaluation.matches import SCORE_THRESHOLD, match_boxes
from .. import tiled_cases
from ..isolated import CaseError
from ..settings import Settings
from ..tables import NOT_MEASURED, BenchmarkReport
from ..timing import Spread, ratio
from .project_configs import TINY_OPTIONS

_CONFIG = 'dino_dinov2_quickstart_tiles'
_TIME_LIMITS = {'cpu': '<= 0.9', 'cuda': '<= 0.5'}
_LOWEST_SCORE = 0.01
# Sides of the images whose peak memory is compared.
_SIDES = (4000, 8000)


def tiles(report: BenchmarkReport, settings: Settings) -> None:
    """Measures detection in tiles of large images relative to sahi, and its peak memory."""
    tiled_cases.require_sahi()
    scene: dict = dict(width=2240, height=1680, num_shapes=150)
    sides, count, repeats = _SIDES, 2, settings.repeats or 3
    if settings.dry_run:
        scene, sides, count = dict(width=300, height=260, num_shapes=12), (300, 400), 1
    with tempfile.TemporaryDirectory() as folder:
        root = generate_shapes(Path(folder) / 'scenes', 1, count, settings.seed, scene)
        checkpoint = settings.checkpoint or _random_detector(Path(folder), settings)
        tile = _tile_of(checkpoint)
        _against_sahi(report, settings, checkpoint, tile, root, repeats)
        _memory(report, settings, checkpoint, tile, Path(folder), sides)


def _random_detector(folder: Path, settings: Settings) -> str:
    """Writes a checkpoint of the config with random weights."""
    cfg = Config.fromfile(find_config(_CONFIG))
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    if settings.dry_run:
        cfg.merge_from_dict({**TINY_OPTIONS, 'model.neck.in_channels': 32, 'model.tile.size': 112})
    seed_everything(settings.seed)
    model = MODELS.build(copy.deepcopy(cfg.model))
    model.init_weights()
    path = folder / 'random.pth'
    meta = {CONFIG_KEY: plain_config(cfg), 'dataset_meta': dict(classes=cfg.metainfo.classes)}
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return str(path)


def _tile_of(checkpoint: str) -> dict[str, Any]:
    """Returns size, overlap and scale of the tiles that a detector was made for."""
    model = whole_config(read_checkpoint(checkpoint), checkpoint).get('model') or {}
    tile: Mapping[str, Any] = model.get('tile') or {}
    defaults = dict(size=640, overlap=0.2, scale=1.0)
    return {key: tile.get(key, value) for key, value in defaults.items()}


def _against_sahi(
    report: BenchmarkReport,
    settings: Settings,
    checkpoint: str,
    tile: dict,
    root: Path,
    repeats: int,
) -> None:
    columns = read_annotations(shapes_annotations(root)[1])
    images = [str(root / 'val' / name) for name in columns.file_names]
    weights = 'random weights' if settings.checkpoint is None else Path(checkpoint).name
    table = report.table(
        f'Tiles of {tile["size"]} pixels, overlap {tile["overlap"]:g}, on {settings.device}, fp32',
        ('method', 's per image', 'time ratio', 'limit', 'AP', 'AP, small', 'repeated', 'MiB'),
        [
            f'{len(images)} drawn images of {columns.widths[0]:g} x {columns.heights[0]:g}, '
            f'{columns.num_annotations} shapes; {weights}; seed {settings.seed}; {repeats} rounds '
            'in turns in one process, decoding included, detections from a score of '
            f'{SCORE_THRESHOLD:g}; memory: that of a process of its own, without the detector',
            f'AP in 0..1, detections from a score of {_LOWEST_SCORE:g}; repeated: share of '
            f'detections from a score of {SCORE_THRESHOLD:g} on a shape that another one of the '
            'same class matches',
            'sahi: batches of 8, its own merging (GREEDYNMM, below a score of 0.1 NMS)',
        ],
    )
    try:
        measured = settings.run_case(
            tiled_cases.tiled_times,
            settings.time_limit,
            checkpoint=checkpoint,
            images=images,
            tile=tile,
            device=settings.device,
            repeats=repeats,
            scores=dict(timed=SCORE_THRESHOLD, found=_LOWEST_SCORE),
        )
    except CaseError as error:
        report.add(table, {'method': f'{NOT_MEASURED}: {error}'})
        return
    times = measured['seconds']
    warm_up = _write(root / 'small.png', np.zeros((64, 64, 3), np.uint8))
    for name in tiled_cases.METHODS:
        row: dict = {'method': name, 's per image': Spread.of(times[name])}
        if name == 'ours':
            row['time ratio'] = ratio(times['ours'], times['sahi'])
            row['limit'] = _TIME_LIMITS[settings.device]
        row |= _quality(columns, measured['found'][name])
        row['MiB'] = _peak(settings, name, checkpoint, warm_up, images[:1], tile)
        report.add(table, row)


def _quality(columns: Any, rows: tiled_cases.Rows) -> dict[str, float]:
    """Returns AP and the share of repeated detections."""
    found = tiled_cases.found_array(rows)
    boxes = found[:, 1:5].copy()
    boxes[:, 2:] -= boxes[:, :2]
    labels = np.arange(len(columns.categories))
    evaluated = EvaluatedBoxes(
        columns.num_images,
        true_boxes_of_file(columns, np.arange(columns.num_images), labels),
        found_boxes(found[:, 0], boxes, found[:, 6], found[:, 5]),
    )
    evaluation = evaluate_boxes(evaluated, len(labels), max_detections=table_detections(evaluated))
    matches = match_boxes(evaluated)
    repeated = int((matches.surplus & matches.on_own_class).sum())
    return {
        'AP': evaluation.average_precision(),
        'AP, small': evaluation.average_precision(area=1),
        'repeated': repeated / max(1, len(matches.detections)),
    }


def _memory(
    report: BenchmarkReport,
    settings: Settings,
    checkpoint: str,
    tile: dict,
    folder: Path,
    sides: tuple[int, int],
) -> None:
    table = report.table(
        f'Peak memory of images of {sides[1]} and {sides[0]} pixels a side',
        ('file', f'{sides[0]} MiB', f'{sides[1]} MiB', 'ratio', 'limit'),
        ['growth of memory in use, in a process of its own, after a small image; one image, ours'],
    )
    writers = {'JPEG': _write, 'TIFF in tiles': _write_tiff}
    warm_up = _write(folder / 'small.png', np.zeros((64, 64, 3), np.uint8))
    rng = np.random.default_rng(settings.seed)
    # Noise of a few pixels, repeated: nothing is gained from plain surfaces.
    piece = cv2.GaussianBlur(rng.integers(0, 256, (500, 500, 3), np.uint8), (0, 0), 2)
    for name, write in writers.items():
        row: dict = {'file': name, 'limit': '<= 1.2'}
        peaks = []
        for side in sides:
            repeats = -(-side // len(piece))
            pixels = np.tile(piece, (repeats, repeats, 1))[:side, :side]
            path = folder / f'{side}{".jpg" if name == "JPEG" else ".tif"}'
            try:
                write(path, pixels)
            except ImportError:
                row[f'{side} MiB'] = f'{NOT_MEASURED}: needs the package tifffile'
                continue
            peaks.append(_peak(settings, 'ours', checkpoint, warm_up, [str(path)], tile))
            row[f'{side} MiB'] = peaks[-1]
        if len(peaks) == 2 and all(isinstance(peak, float) for peak in peaks) and peaks[0]:
            row['ratio'] = peaks[1] / peaks[0]
        report.add(table, row)


def _peak(
    settings: Settings, method: str, checkpoint: str, warm_up: str, images: list[str], tile: dict
) -> float | str:
    try:
        return settings.run_case(
            tiled_cases.tiled_memory,
            settings.time_limit,
            method=method,
            checkpoint=checkpoint,
            warm_up=warm_up,
            images=images,
            tile=tile,
            device=settings.device,
        )['mib']
    except CaseError as error:
        return f'{NOT_MEASURED}: {error}'


def _write(path: Path, pixels: np.ndarray) -> str:
    _, data = cv2.imencode(path.suffix, pixels)
    path.write_bytes(data.tobytes())
    return str(path)


def _write_tiff(path: Path, pixels: np.ndarray) -> str:
    import tifffile

    tifffile.imwrite(path, pixels[..., ::-1], tile=(256, 256), photometric='rgb')
    return str(path)
