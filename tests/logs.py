"""Logs as MMEngine writes them, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def power_law(steps, a: float = 50.0, b: float = 300.0, c: float = 0.6) -> np.ndarray:
    """Returns AP in points, without noise."""
    return a - b * np.asarray(steps, dtype=float) ** -c


def write_part(
    work_dir: Path,
    stamp: str,
    first_step: int,
    last_step: int,
    epoch_length: int = 100,
    interval: int = 50,
    drop: int | None = None,
    by_epoch: bool = True,
    offset: float = 0.0,
    config: str | None = None,
) -> Path:
    """Writes the log of one start of a run, with an evaluation after each epoch.

    ``offset`` is added to the loss and to AP in points, so that the parts differ.
    """
    lines = []
    for step in range(first_step, last_step + 1):
        epoch = (step - 1) // epoch_length + 1
        if (step - (epoch - 1) * epoch_length) % interval == 0:
            rate = 1e-4 if drop is None or step <= drop else 1e-5
            record = dict(
                lr=rate, base_lr=rate, data_time=0.1, grad_norm=5.0, loss=20.0 / step + offset,
                loss_cls=1.0, loss_bbox=2.0, time=0.5, iter=step, memory=900, step=step,
            )  # fmt: skip
            lines.append(record | dict(epoch=epoch) if by_epoch else record)
        if step % epoch_length == 0:
            gain = 2.0 if drop is not None and step > drop else 0.0
            ap = (power_law(step) + gain + offset) / 100
            lines.append(
                {'coco/bbox_mAP': ap, 'coco/bbox_mAP_50': ap * 1.3, 'coco/bbox_mAP_s': -1.0,
                 'time': 0.1, 'data_time': 0.01, 'step': epoch if by_epoch else step}
            )  # fmt: skip
    folder = work_dir / stamp / 'vis_data'
    folder.mkdir(parents=True)
    path = folder / 'scalars.json'
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    if config is not None:
        (folder / 'config.py').write_text(config)
    return path
