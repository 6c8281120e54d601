"""Named comparisons, one for each claim about speed, memory or equality."""

from __future__ import annotations

from collections.abc import Callable

from ..settings import Settings
from ..tables import BenchmarkReport
from . import (
    backbone_speed,
    batch_mates,
    families,
    gpu,
    kernels,
    masks,
    matching_and_losses,
    real_time,
    redo,
    scale,
    selection,
    threads,
    tiles,
    training_step,
)

SUITES: dict[str, Callable[[BenchmarkReport, Settings], None]] = {
    'backbone': backbone_speed.equal_sizes,
    'mixed-sizes': backbone_speed.mixed_sizes,
    'windows': backbone_speed.windows,
    'families': families.families,
    'training-step': training_step.training_step,
    'matching': matching_and_losses.matching_and_losses,
    'batch-mates': batch_mates.batch_mates,
    'kernels': kernels.kernels,
    'reproducible': training_step.reproducible,
    'masks': masks.masks,
    'redo': redo.redo,
    'threads': threads.threads,
    'scale': scale.scale,
    'real-time': real_time.real_time,
    'tiles': tiles.tiles,
    'selection': selection.selection,
    'gpu': gpu.everything,
}
