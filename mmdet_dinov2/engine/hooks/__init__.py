"""Hooks of a training; importing them registers them."""

from .checkpoint import IntactCheckpointHook
from .early_stopping import ResumableEarlyStoppingHook
from .ema import TrainedEMAHook
from .forecast_hook import ForecastHook
from .loader_memory import LoaderMemoryHook
from .nonfinite import NonFiniteHook
from .preemption import PreemptionHook
from .teacher import TeacherHook
from .visualization import ReadableVisualizationHook

__all__ = [
    'IntactCheckpointHook',
    'TrainedEMAHook',
    'ForecastHook',
    'LoaderMemoryHook',
    'NonFiniteHook',
    'PreemptionHook',
    'ReadableVisualizationHook',
    'ResumableEarlyStoppingHook',
    'TeacherHook',
]
