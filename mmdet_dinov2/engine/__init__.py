"""Training: runner, loops, the effective batch. Importing registers all parts of it."""

from . import hooks, optim
from .log_processor import ReadableLogProcessor
from .loops import EpochTrainLoop, IterTrainLoop
from .runner import StrictRunner

__all__ = [
    'ReadableLogProcessor',
    'StrictRunner',
    'EpochTrainLoop',
    'IterTrainLoop',
    'hooks',
    'optim',
]
