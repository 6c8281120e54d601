"""Compares training on chosen photos with training on random ones."""

from __future__ import annotations

import json
import os
import pprint
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...data.shapes import generate_shapes, shapes_annotations
from ...files import write_text
from ..ablation import run_plan
from ..selection_cases import choose_case, train_case
from ..settings import Settings
from ..tables import BenchmarkReport
from .project_configs import QUICKSTART, TINY_OPTIONS

_SEEDS = (0, 1, 2)
# Pictures in all, labeled at first, and labeled in addition.
_NUM_TRAIN, _NUM_LABELED, _COUNT = 400, 40, 100
_NUM_VAL = 100
_STEPS, _BATCH = 700, 8


def selection(report: BenchmarkReport, settings: Settings) -> None:
    """Trains on 40 pictures and 100 that `select` chooses, or 100 random ones (3 seeds each)."""
    folder = report.path.parent / 'selection'
    sizes = (_NUM_TRAIN, _NUM_LABELED, _COUNT, _NUM_VAL)
    steps, options = _STEPS, {}
    if settings.dry_run:
        sizes, steps = (16, 4, 6, 4), 2
        options = {**TINY_OPTIONS, 'model.neck.in_channels': 32, 'model.num_queries': 20}
    num_train, num_labeled, count, num_val = sizes
    shapes = generate_shapes(folder / 'shapes', num_train, num_val, settings.seed)
    names = [image['file_name'] for image in _entries(shapes, 'train')['images']]
    labeled = sorted(random.Random(settings.seed).sample(range(num_train), num_labeled))
    _write_labeled(folder / 'labeled', shapes, {names[index] for index in labeled})
    checkpoint = settings.run_case(
        train_case,
        None,
        config=QUICKSTART,
        data=str(shapes),
        work_dir=str(folder / 'first'),
        options={**options, **_on(labeled, steps)},
    )['checkpoint']
    changes = {}
    for name, detector in (('diverse', False), ('diverse_unsure', True)):
        chosen = settings.run_case(
            choose_case,
            None,
            unlabeled=str(shapes / 'train'),
            data=str(folder / 'labeled'),
            count=count,
            checkpoint=checkpoint,
            unsure=detector,
            out=str(folder / name),
        )['chosen']
        places = [names.index(os.path.basename(path)) for path in chosen]
        changes[name] = _on([*labeled, *places], steps)
    others = [index for index in range(num_train) if index not in labeled]
    plan = dict(
        config=QUICKSTART,
        data=str(shapes),
        seeds=list(_SEEDS[: 1 if settings.dry_run else None]),
    )
    plan['options'] = [
        {**options, **_on([*labeled, *random.Random(seed).sample(others, count)], steps)}
        for seed in plan['seeds']
    ]
    plan['changes'] = changes
    path = folder / 'plan.py'
    lines = (f'{key} = {pprint.pformat(value)}\n' for key, value in plan.items())
    write_text(path, ''.join(lines))
    run_plan(path, report, folder / 'runs', run=settings.run_case)
    report.tables[-1].title = (
        f'{num_labeled} labeled pictures and {count} more: chosen against random (base), '
        'coco/bbox_mAP after equal steps'
    )
    report.save()


def _on(indices: Sequence[int], steps: int) -> dict[str, Any]:
    """Returns the settings of a training on some of the pictures, with a number of steps."""
    per_epoch = -(-len(indices) // _BATCH)
    epochs = max(1, round(steps / per_epoch))
    return {
        'train_dataloader.dataset.indices': list(indices),
        'train_cfg.max_epochs': epochs,
        'train_cfg.val_interval': epochs,
        'param_scheduler.1.end': epochs,
        'param_scheduler.1.T_max': epochs,
    }


def _write_labeled(folder: Path, shapes: Path, names: set[str]) -> None:
    """Writes a dataset of some of the training pictures and all of the validation."""
    (folder / 'annotations').mkdir(parents=True, exist_ok=True)
    for split in ('train', 'val'):
        link = folder / split
        if not link.is_symlink():
            link.symlink_to(os.path.abspath(shapes / split), target_is_directory=True)
        content = _entries(shapes, split)
        if split == 'train':
            content['images'] = [i for i in content['images'] if i['file_name'] in names]
            kept = {image['id'] for image in content['images']}
            content['annotations'] = [a for a in content['annotations'] if a['image_id'] in kept]
        write_text(folder / f'annotations/{split}.json', json.dumps(content))


def _entries(shapes: Path, split: str) -> dict[str, Any]:
    train, val = shapes_annotations(shapes)
    return json.loads(Path(train if split == 'train' else val).read_text(encoding='utf-8'))
