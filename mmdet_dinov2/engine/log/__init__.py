"""What a run tells people: log lines, the console, the live bar. Importing registers them."""

from .live_bar import LiveBarHook
from .logger_hook import ReadableLoggerHook
from .processor import ReadableLogProcessor
from .wandb_backend import NoCodeWandbVisBackend

__all__ = [
    'LiveBarHook',
    'NoCodeWandbVisBackend',
    'ReadableLogProcessor',
    'ReadableLoggerHook',
]
