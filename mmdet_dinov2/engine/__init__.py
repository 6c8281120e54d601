"""Training: runner, loops, the effective batch. Importing registers all parts of it."""

from . import hooks, optim
from .log import LiveBarHook, NoCodeWandbVisBackend, ReadableLoggerHook, ReadableLogProcessor
from .loops import EpochTrainLoop, IterTrainLoop
from .runner import StrictRunner

__all__ = [
    'LiveBarHook',
    'NoCodeWandbVisBackend',
    'ReadableLogProcessor',
    'ReadableLoggerHook',
    'StrictRunner',
    'EpochTrainLoop',
    'IterTrainLoop',
    'hooks',
    'optim',
]
