"""Named comparisons, one for each claim about speed, memory or equality."""

from __future__ import annotations

from collections.abc import Callable

from ..report import Report
from ..settings import Settings
from . import backbone, batches, detector, gpu, matching

SUITES: dict[str, Callable[[Report, Settings], None]] = {
    'backbone': backbone.equal_sizes,
    'mixed-sizes': backbone.mixed_sizes,
    'windows': backbone.windows,
    'training-step': detector.training_step,
    'matching': matching.matching_and_losses,
    'batch-mates': batches.batch_mates,
    'reproducible': detector.reproducible,
    'gpu': gpu.everything,
}
