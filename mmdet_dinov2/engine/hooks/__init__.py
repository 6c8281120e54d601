"""Hooks of a training; importing them registers them."""

from .checkpoint import IntactCheckpointHook
from .collapse_guard import CollapseGuardHook
from .early_stopping import ResumableEarlyStoppingHook
from .ema import TrainedEMAHook
from .forecast_hook import ForecastHook
from .loader_memory import LoaderMemoryHook
from .nonfinite import NonFiniteHook
from .preemption import PreemptionHook
from .self_distillation import SelfDistillationHook
from .teacher import TeacherHook
from .visualization import ReadableVisualizationHook

__all__ = [
    'CollapseGuardHook',
    'IntactCheckpointHook',
    'TrainedEMAHook',
    'ForecastHook',
    'LoaderMemoryHook',
    'NonFiniteHook',
    'PreemptionHook',
    'ReadableVisualizationHook',
    'ResumableEarlyStoppingHook',
    'SelfDistillationHook',
    'TeacherHook',
]
