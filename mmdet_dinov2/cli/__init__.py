"""What the command lines share: arguments, configs, messages and the end of a process."""

from .arguments import add_common_arguments, add_config_arguments, add_trust_argument
from .configs import build_runner, check, config_name, find_model, read_config
from .messages import one_sentence_errors, progress_bars, warn_of_busy_cpu
from .processes import is_first_process, launched_world_size, work_and_exit

__all__ = [
    'add_common_arguments',
    'add_config_arguments',
    'add_trust_argument',
    'build_runner',
    'check',
    'config_name',
    'find_model',
    'is_first_process',
    'launched_world_size',
    'one_sentence_errors',
    'progress_bars',
    'read_config',
    'warn_of_busy_cpu',
    'work_and_exit',
]
