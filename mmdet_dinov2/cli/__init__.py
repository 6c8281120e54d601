"""The command line: its commands, their arguments, messages and exit codes."""

from .arguments import add_common_arguments, add_config_arguments, add_trust_argument
from .commands import COMMANDS, run
from .configs import config_name, find_model, read_config
from .messages import one_sentence_errors, progress_bars, tell
from .processes import is_first_process, launched_world_size, work_and_exit

__all__ = [
    'COMMANDS',
    'add_common_arguments',
    'add_config_arguments',
    'add_trust_argument',
    'config_name',
    'find_model',
    'is_first_process',
    'launched_world_size',
    'one_sentence_errors',
    'progress_bars',
    'read_config',
    'run',
    'tell',
    'work_and_exit',
]
