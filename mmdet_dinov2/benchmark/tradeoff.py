"""AP over time of trained detectors, also with fewer queries and decoder layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from torch import nn

from ..engine.training import build_runner, check, read_config
from ..errors import InputError
from ..models import PaddingAwareDINO
from .settings import Settings
from .tables import BenchmarkReport
from .timing import Spread, measure_in_turns

_NUM_IMAGES, _ROUNDS = 20, 5
AP = 'bbox_mAP'
TIME = 'ms per image'


def measure_tradeoff(
    report: BenchmarkReport,
    settings: Settings,
    models: Sequence[tuple[str, str]],
    num_queries: Sequence[int] = (),
    num_decoder_layers: Sequence[int] = (),
    options: Mapping[str, Any] | None = None,
    data: str | None = None,
) -> None:
    """Evaluates checkpoints and times their predictions, at several sizes of the decoder.

    AP is that of the test data; the time is that of images of it, one at a time, from pixels in
    memory to boxes, all sizes of a model in turns.

    Args:
        report: Takes the table.
        settings: Repeats, and whether to run on few images.
        models: Config and checkpoint of each detector.
        num_queries: Numbers of queries; none takes all.
        num_decoder_layers: Numbers of decoder layers; none takes all.
        options: Settings that override the configs.
        data: Folder of a dataset to use instead of those of the configs.

    Raises:
        InputError: If a config or checkpoint cannot be used, or a detector has no such sizes.
    """
    table = report.table(
        'AP over time',
        ('model', 'queries', 'decoder layers', AP, TIME),
        [f'median and quartiles of {settings.repeats or _ROUNDS} rounds, one image at a time'],
    )
    for config, checkpoint in models:
        cfg = read_config(
            config, data=data, work_dir=report.path.parent / Path(config).stem, options=options
        )
        cfg.load_from, cfg.resume = checkpoint, False
        check(cfg, ('test',))
        runner = build_runner(cfg)
        model = runner.model
        sizes = list(product(num_queries or (None,), num_decoder_layers or (None,)))
        if not isinstance(model, PaddingAwareDINO) and sizes != [(None, None)]:
            raise InputError(
                f'numbers of queries and decoder layers are those of a PaddingAwareDINO, but '
                f'{config} has a {type(model).__name__}'
            )
        for size in sizes:
            _set_size(model, size)  # a number out of range ends the command before hours are spent
        scores = []
        for size in sizes:
            _set_size(model, size)
            scores.append(runner.test()[f'coco/{AP}'])
        dataset = runner.test_loop.dataloader.dataset
        count = min(2 if settings.dry_run else _NUM_IMAGES, len(dataset))
        images = [pseudo_collate([dataset[index]]) for index in range(count)]
        times = measure_in_turns(
            {size: partial(_predict, model, size, images) for size in sizes},
            settings.repeats or _ROUNDS,
            next(model.parameters()).device,
        )
        for size, score in zip(sizes, scores, strict=True):
            row = {
                'model': Path(config).stem,
                AP: score,
                TIME: Spread.of([1000 * seconds / count for seconds in times[size]]),
            }
            if isinstance(model, PaddingAwareDINO):
                _set_size(model, size)
                row['queries'] = model.test_num_queries
                row['decoder layers'] = model.test_num_layers
            report.add(table, row)


def _set_size(model: nn.Module, size: tuple[int | None, int | None]) -> None:
    if isinstance(model, PaddingAwareDINO):
        model.set_test_size(*size)


@torch.no_grad()
def _predict(model: nn.Module, size: tuple[int | None, int | None], images: Sequence[dict]) -> None:
    _set_size(model, size)
    model.eval()
    for image in images:
        model.test_step(image)
