"""Compares the recipe for real time with RF-DETR, at the same backbone and size."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...config.files import find_config
from ...errors import InputError
from ..detectors import DetectorSpec
from ..isolated import CaseError
from ..peer import ours as ours_module
from ..settings import Settings
from ..tables import NOT_MEASURED, BenchmarkReport
from ..timing import Spread, measure_in_turns, ratio
from ..video_case import DETECTIONS, video_times
from ..workers import own_variables

CONFIG = 'dino_dinov2_s_rt'
COLUMNS = (
    'model', 'images', 'parameters M', 'GFLOP', 'forward, 1 thread s', 'ratio, 1 thread',
    'forward, all threads s', 'ratio, all threads', 'exported s', 'exported / eager',
    'exported ratio', 'training step s', 'step ratio', 'peak MiB', 'memory ratio',
)  # fmt: skip
# Of ours, as multiples of RF-DETR.
LIMITS = dict(forward=1.0, photos=0.8, step=0.6, memory=0.75, video=0.9)
# Of an exported file, as a multiple of the model that it was made from.
EXPORTED_LIMIT = 0.8
SQUARE, PHOTOS = 'square', '4:3'
BATCH_SIZE, NUM_BOXES = 2, 8
_PEER_FILE = Path(__file__).resolve().parents[1] / 'peer' / 'rf_detr.py'
_TINY = {
    'model.backbone.arch._delete_': True,
    'model.backbone.arch.embed_dims': 32,
    'model.backbone.arch.num_layers': 2,
    'model.backbone.arch.num_heads': 2,
    'model.backbone.arch.feedforward_channels': 32,
    'model.backbone.arch.ffn': 'mlp',
    'model.backbone.global_attn_indexes': [1],
    'model.num_queries': 20,
    'model.decoder.layer_cfg.ffn_cfg.feedforward_channels': 32,
    'model.encoder.layer_cfg.ffn_cfg.feedforward_channels': 32,
}


@dataclass(frozen=True)
class Variant:
    """A size of RF-DETR.

    Attributes:
        name: Its name.
        side: Height and width of its images.
        decoder_layers: Number of its decoder layers.
    """

    name: str
    side: int
    decoder_layers: int


# rfdetr 1.11.2, `rfdetr.config`: ViT-S, patch 16, 300 queries, 2 x 2 windows.
VARIANTS = (Variant('Nano', 384, 2), Variant('Small', 512, 3), Variant('Medium', 576, 4))


def real_time(report: BenchmarkReport, settings: Settings) -> None:
    """Measures the recipe for real time beside RF-DETR (--rfdetr), and `predict` on a video."""
    variants = VARIANTS
    if settings.dry_run:
        variants = (Variant('Nano', 96, 2),)
        peer, absent = None, 'tiny sizes; RF-DETR runs with --rfdetr only'
    if settings.rfdetr or not settings.dry_run:
        peer, absent = _find_peer(settings.rfdetr)
    for variant in variants:
        _compare(report, settings, variant, peer, absent)
    _measure_video(report, settings, variants[0])


def _spec(settings: Settings, variant: Variant) -> DetectorSpec:
    """Returns ours at the backbone, the windows and the decoder layers of a variant."""
    options = {
        'model.backbone.window_size': variant.side // 32,
        'model.decoder.num_layers': variant.decoder_layers,
        **(_TINY if settings.dry_run else {}),
    }
    return DetectorSpec(find_config(CONFIG), options, seed=settings.seed)


def _find_peer(folder: str | None) -> tuple[dict[str, Any] | None, str]:
    """Returns how to start Python with RF-DETR, or None and why not."""
    if folder is None:
        if importlib.util.find_spec('rfdetr'):
            return dict(python=sys.executable), ''
        return None, (
            'RF-DETR is absent: put it into an environment of its own, as it excludes packages of '
            'this one (python -m venv FOLDER; FOLDER/bin/pip install rfdetr==1.11.2), and name '
            'that with --rfdetr FOLDER'
        )
    path = Path(folder).absolute()
    if (path / 'bin/python').exists():
        return dict(python=str(path / 'bin/python')), ''
    if (path / 'rfdetr').is_dir():  # pip install --target
        return dict(variables=dict(PYTHONPATH=str(path))), ''
    raise InputError(
        f'--rfdetr {folder} must be a virtual environment, or a folder of pip install --target, '
        'with the package rfdetr'
    )


def _compare(
    report: BenchmarkReport,
    settings: Settings,
    variant: Variant,
    peer: dict[str, Any] | None,
    absent: str,
) -> None:
    """Adds the table of a size."""
    all_threads = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1
    sizes = {SQUARE: (variant.side, variant.side), PHOTOS: (variant.side * 3 // 4, variant.side)}
    name = f'RF-DETR-{variant.name}'
    notes = [
        f'fp32, random weights, seed {settings.seed}, {variant.decoder_layers} decoder layers, 300 '
        'queries; times without pre- and postprocessing: forward of one image; training step of '
        f'{BATCH_SIZE} images with {NUM_BOXES} boxes each, {all_threads} threads',
        f'{settings.repeats or 3} rounds in turns, each model in a process of its own; a ratio is '
        f'to {name} on squares, to which it resizes all images',
        'exported: an ONNX file in onnxruntime with 1 thread, written without a proof; limit: '
        f'{EXPORTED_LIMIT} of the forward pass with 1 thread',
        f'limits of ours: forward {LIMITS["forward"]} (4:3: {LIMITS["photos"]}), step '
        f'{LIMITS["step"]}, memory {LIMITS["memory"]}',
    ]
    with ExitStack() as stack:
        rows: dict[str, dict] = {'ours': {}, 'ours, 4:3': {}}
        work = dict(batch_size=BATCH_SIZE, num_boxes=NUM_BOXES, seed=settings.seed)
        ours = stack.enter_context(
            settings.start_worker(
                ['-m', ours_module.__name__],
                settings.time_limit,
                variables=own_variables(),
                spec=_spec(settings, variant).as_dict(),
                sizes=sizes,
                **work,
            )
        )
        theirs = None
        if peer is None:
            notes.append(absent)
        else:
            theirs = stack.enter_context(
                settings.start_worker(
                    [str(_PEER_FILE)],
                    settings.time_limit,
                    variant=variant.name,
                    side=variant.side,
                    **work,
                    **peer,
                )
            )
            rows[name] = {}
        failed = {}
        try:
            if theirs is not None:
                failed = _try(name, lambda: theirs.call('memory'))
                theirs = None if failed else theirs
            found = _measure(settings, ours, theirs, name, all_threads)
        except CaseError as error:
            failed, found = {'ours': str(error)}, {}
    title = f'{variant.side} pixels: {CONFIG} beside {name}'
    if found.get('versions'):
        notes.append(', '.join(f'{k} {v}' for k, v in found['versions'].items()))
    table = report.table(title, COLUMNS, notes)
    for model, row in rows.items():
        shape = PHOTOS if model.endswith(PHOTOS) else SQUARE
        row |= {'model': model, 'images': '{}x{}'.format(*sizes[shape])}
        row |= found.get(model, {})
        if model in failed:
            row['parameters M'] = f'{NOT_MEASURED}: {failed[model]}'
        report.add(table, row)


def _try(name: str, function: Callable[[], object]) -> dict[str, str]:
    """Returns the failure of a call by the name of the model; empty if there is none."""
    try:
        function()
    except CaseError as error:
        return {name: str(error)}
    return {}


def _measure(settings: Settings, ours: Any, theirs: Any, name: str, all_threads: int) -> dict:
    """Returns the figures of each row by its name, and the versions of the peer."""
    repeats = settings.repeats or 3
    shapes = {'ours': SQUARE, 'ours, 4:3': PHOTOS}
    calls = {model: partial(ours.call, shape=shape) for model, shape in shapes.items()}
    if theirs is not None:
        calls[name] = theirs.call
    trained = [model for model in calls if model != 'ours, 4:3']
    steps = measure_in_turns(
        {model: partial(calls[model], 'train', threads=all_threads) for model in trained}, repeats
    )
    memory = {'ours': ours.call('memory')}
    if theirs is not None:
        memory[name] = theirs.call('memory')
    forward = {
        threads: {model: partial(call, 'forward', threads=threads) for model, call in calls.items()}
        for threads in (1, all_threads)
    }
    not_exported: dict[str, str] = {}
    for model, call in calls.items():
        not_exported.update(_try(model, partial(call, 'forward_exported')))
        if model not in not_exported:
            forward[1][f'{model} exported'] = partial(call, 'forward_exported')
    forward = {threads: measure_in_turns(cases, repeats) for threads, cases in forward.items()}
    found: dict[str, Any] = {}
    for model, call in calls.items():
        described = call('describe')
        found.setdefault('versions', {}).update(described.get('versions', {}))
        row = found[model] = {
            'parameters M': described['parameters'] / 1e6,
            'GFLOP': described['flops'] / 1e9,
        }
        cells = [
            ('forward, 1 thread s', 'ratio, 1 thread', forward[1]),
            ('forward, all threads s', 'ratio, all threads', forward[all_threads]),
            ('training step s', 'step ratio', steps),
        ]
        for column, ratio_column, times in cells:
            if model in times:
                row[column] = Spread.of(times[model])
                if name in times and model != name:
                    row[ratio_column] = ratio(times[model], times[name])
        if model in not_exported:
            row['exported s'] = f'{NOT_MEASURED}: {not_exported[model]}'
        else:
            times = forward[1][f'{model} exported']
            row['exported s'] = Spread.of(times)
            row['exported / eager'] = ratio(times, forward[1][model])
            if f'{name} exported' in forward[1] and model != name:
                row['exported ratio'] = ratio(times, forward[1][f'{name} exported'])
        if model in memory:
            row['peak MiB'] = memory[model]
            if memory.get(name) and model != name:
                row['memory ratio'] = memory[model] / memory[name]
    return found


def _measure_video(report: BenchmarkReport, settings: Settings, variant: Variant) -> None:
    """Adds the table of `predict` on a video."""
    size, num_frames, repeats = (480, 640), 300, min(settings.repeats or 2, 3)
    if settings.dry_run:
        size, num_frames = (60, 80), 3
    table = report.table(
        f'`predict` on a video: {CONFIG}, longest side {variant.side}',
        ('model', 'frames', 'model alone s', 'predict s', 'speed ratio', 'limit'),
        [
            f'{num_frames} frames of {size[0]}x{size[1]}, decoded, predicted, drawn and written, '
            f'with about {DETECTIONS} objects each; '
            'the model alone has the resized frames in memory; '
            f'{repeats} rounds in turns'
        ],
    )
    row: dict = {'model': CONFIG, 'limit': f'>= {LIMITS["video"]}'}
    try:
        times = settings.run_case(
            video_times,
            settings.time_limit,
            spec=_spec(settings, variant).as_dict(),
            size=size,
            num_frames=num_frames,
            longest_side=variant.side,
            repeats=repeats,
        )
        row |= {
            'frames': min(times['frames']),
            'model alone s': Spread.of(times['model']),
            'predict s': Spread.of(times['predict']),
            'speed ratio': ratio(times['model'], times['predict']),
        }
    except CaseError as error:
        row['frames'] = f'{NOT_MEASURED}: {error}'
    report.add(table, row)
