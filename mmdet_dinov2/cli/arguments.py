"""What the command-line tools share: arguments, configs, checks before the start, errors."""

from __future__ import annotations

import argparse
import atexit
import copy
import inspect
import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.utils import ProgressBar
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from ..checkpoint.reading import TRUST_FLAG, trust_checkpoints
from ..config.names import check_loader_keys, check_option_names, did_you_mean
from ..data.class_names import fill_classes
from ..data.own_config import use_own_data
from ..data.own_data import find_own_data
from ..data.preflight import check_config, raise_on_errors
from ..engine.hooks.checkpoint import find_last_checkpoint
from ..engine.hooks.preemption import STOPPED_EXIT_CODE
from ..engine.runner import StrictRunner
from ..environment import busy_cores
from ..errors import InputError

_TRACEBACK = 'MMDET_DINOV2_TRACEBACK'


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that training and testing share, named as in mmdet."""
    add_config_arguments(parser)
    parser.add_argument(
        '--no-preflight', action='store_true', help='start without checking the data set'
    )
    parser.add_argument(
        TRUST_FLAG,
        action='store_true',
        help='load checkpoints that run code; only for files whose author you trust',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what starts the processes of a distributed run',
    )
    # torch.distributed.launch passes it, torchrun sets LOCAL_RANK.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that change a config."""
    parser.add_argument(
        '--data',
        metavar='PATH',
        help='folder of a data set (COCO or YOLO format) to use instead of that of the config',
    )
    parser.add_argument('--work-dir', help='folder for what the program writes')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings that replace those of the config, as key=value; lists as key="[a,b]"',
    )


def config_name(args: argparse.Namespace) -> str:
    """Name of the config without folder and ending."""
    return Path(args.config).stem


def read_config(args: argparse.Namespace) -> Config:
    """Reads the config named by the arguments, applies the common ones, fills in classes.

    The work folder is that of the arguments, else of the config, else ``work_dirs/CONFIG_NAME``.
    What has to be written for ``--data`` is written there. ``--cfg-options`` have the last word.

    Raises:
        FileNotFoundError: If there is no such config or data set.
        InputError: If the data set cannot be used.
    """
    if not os.path.isfile(args.config):
        raise FileNotFoundError(f'config {args.config} does not exist; check the path')
    if getattr(args, 'trust_checkpoint', False):
        trust_checkpoints()
    os.environ.setdefault('LOCAL_RANK', str(getattr(args, 'local_rank', 0)))
    cfg = Config.fromfile(args.config)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    cfg.launcher = getattr(args, 'launcher', 'none')
    options = args.cfg_options or {}
    work_dir = args.work_dir or options.get('work_dir') or cfg.get('work_dir')
    work_dir = work_dir or os.path.join('work_dirs', config_name(args))
    if getattr(args, 'data', None):
        data = find_own_data(args.data, os.path.join(work_dir, 'data'))
        use_own_data(cfg, data)
        if is_main_process():
            print('\n'.join(f'data: {note}' for note in data.notes))
    check_option_names(options, cfg)
    cfg.merge_from_dict(options)
    cfg.work_dir = work_dir
    fill_classes(cfg)
    return cfg


def find_model(model: str, checkpoint: str | None = None) -> tuple[str | None, str]:
    """Finds what to predict with.

    Args:
        model: A checkpoint, a work folder, or a config.
        checkpoint: The checkpoint of a config; by default the best one, else the last, in the
            folder of the config or in its work folder.

    Returns:
        The config, or None to take the one in the checkpoint, and the checkpoint.

    Raises:
        FileNotFoundError: If there is none.
        InputError: If two checkpoints are named.
    """
    if not model.endswith('.py') and not os.path.isdir(model):
        if checkpoint:
            raise InputError(f'both {model} and --checkpoint {checkpoint} name a checkpoint')
        return None, model
    config, folders = None, [model]
    if not os.path.isdir(model):
        if not os.path.isfile(model):
            raise FileNotFoundError(f'config {model} does not exist; check the path')
        config = model
        work_dir = Config.fromfile(model).get('work_dir')
        folders = [os.path.dirname(model) or '.', work_dir or f'work_dirs/{Path(model).stem}']
    if checkpoint:
        return config, checkpoint
    for folder in folders:
        best = sorted(Path(folder).glob('best_*.pth'), key=os.path.getmtime)
        found = str(best[-1]) if best else find_last_checkpoint(folder)
        if found:
            return config, found
    raise FileNotFoundError(
        f'there is no best_*.pth and no last_checkpoint in {" or ".join(folders)}; name the '
        'checkpoint'
    )


def progress_bar(total: int) -> ProgressBar:
    """A progress bar on the terminal; nothing where the output goes to a file."""
    return ProgressBar(total, file=sys.stderr if sys.stderr.isatty() else io.StringIO())


def launched_world_size(launcher: str) -> int:
    """Number of processes that a launcher started, before they are connected."""
    variable = dict(
        pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE', none=None
    )[launcher]
    if variable is None:
        return 1
    if variable not in os.environ:
        raise InputError(
            f'--launcher {launcher} expects {variable} in the environment; start the program with '
            'the scripts in tools/'
        )
    return int(os.environ[variable])


def is_main_process() -> bool:
    """Whether this is the process that prints, before the processes are connected."""
    return os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0'


def check(cfg: Config, splits: tuple[str, ...], preflight: bool = True) -> None:
    """Checks model and data of a config before anything is written.

    Args:
        cfg: The config.
        splits: Data splits to check, of 'train', 'val', 'test'.
        preflight: Whether to check the data too.

    Raises:
        ValueError: If something cannot be used.
        FileNotFoundError: If a file is missing.
    """
    check_loader_keys(cfg, splits)
    # Without memory for the parameters, only to see whether all keys are known and fit together.
    with torch.device('meta'):
        MODELS.build(copy.deepcopy(cfg.model))  # mmdet adds keys to what it builds from
    if cfg.get('load_from') and '://' not in cfg.load_from and not os.path.isfile(cfg.load_from):
        raise FileNotFoundError(f'checkpoint {cfg.load_from} does not exist; check the path')
    if preflight:
        findings = check_config(cfg, splits)
        raise_on_errors(findings)
        if is_main_process():
            for finding in findings:
                if finding.severity == 'warning':
                    print(f'warning [{finding.split}]: {finding.message}', file=sys.stderr)


def warn_of_busy_cpu() -> None:
    """Says what helps where other programs keep the cores busy that PyTorch's threads wait for."""
    threads = torch.get_num_threads()
    if torch.cuda.is_available() or 'OMP_NUM_THREADS' in os.environ or threads == 1:
        return
    if 'RANK' in os.environ or 'SLURM_PROCID' in os.environ:
        return  # the others of this run are busy too
    cores, busy = os.cpu_count() or 1, busy_cores()
    if busy is not None and busy > cores / 2:
        print(
            f'warning: other programs keep {busy:.1f} of {cores} cores busy; the {threads} threads '
            'of PyTorch then wait for each other, and a step may take many times as long. '
            'OMP_NUM_THREADS=1 in front of the command avoids it',
            file=sys.stderr,
        )


def build_runner(cfg: Config) -> Runner:
    """Builds the runner; configs without ``runner_type`` get this project's."""
    cfg.setdefault('runner_type', 'StrictRunner')
    if cfg.runner_type != 'StrictRunner':
        raise InputError(
            f"runner_type={cfg.runner_type!r} is not supported by this tool; use 'StrictRunner'"
        )
    warn_of_busy_cpu()
    return StrictRunner.from_cfg(cfg)


@contextmanager
def one_sentence_errors(every_error: bool = False) -> Iterator[None]:
    """Ends the program with one sentence instead of a traceback.

    Args:
        every_error: Whether to do so for every error, as fits while the input is being read and
            checked; else only for those that are known to come from the input.
    """
    if os.environ.get(_TRACEBACK):
        yield
        return
    try:
        yield
    except Exception as error:
        # torchrun shows the error of the process that failed first as the last thing.
        record_error(error)
        if not every_error and not isinstance(error, InputError):
            raise
        # What only one of the other processes meets would else be told by nobody.
        if is_main_process() or 'TORCHELASTIC_ERROR_FILE' not in os.environ:
            print(f'error: {_of_process()}{_describe(error)}', file=sys.stderr)
            if not isinstance(error, (InputError, FileNotFoundError)):
                print(f'({_TRACEBACK}=1 shows where)', file=sys.stderr)
        sys.exit(1)


@contextmanager
def joined_processes(launcher: str) -> Iterator[None]:
    """Ends a process that a launcher started, after what all processes do together.

    A thread of the process group that still holds tensors while Python shuts down aborts its
    process, after all the work was done (pytorch issue 190489), and what holds the group keeps its
    threads alive. So the process ends without taking Python apart. After an error it ends as usual:
    other processes may be waiting in the group.

    Args:
        launcher: What started the processes; with 'none' nothing is done.
    """
    code = 0
    try:
        yield
    except SystemExit as stop:
        if launcher == 'none' or stop.code != STOPPED_EXIT_CODE:
            raise
        code = STOPPED_EXIT_CODE  # which all processes have agreed on
    if launcher != 'none':
        _end_process(code)


def _end_process(code: int) -> None:
    """Ends this process after the functions that are registered for its end."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    atexit._run_exitfuncs()  # ends loading processes, closes logs
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _of_process() -> str:
    """Which process speaks, where it is not the main one."""
    if is_main_process():
        return ''
    return f'(process {os.environ.get("RANK", os.environ.get("SLURM_PROCID"))}) '


def record_error(error: Exception) -> None:
    """Tells torchrun, if it started this process, why the process ends."""
    if 'TORCHELASTIC_ERROR_FILE' in os.environ:
        handler = get_error_handler()
        handler.initialize()
        handler.record_exception(error)


def _describe(error: Exception) -> str:
    """One sentence about an error; unknown config keys get the known ones beside them."""
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if ' in DataLoader worker process ' in message:
        # torch puts the traceback of the worker into the message; its last part says what it is.
        message = message.rpartition(f'{type(error).__name__}: ')[2].strip()
    match = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", message)
    if match is None:
        return message or type(error).__name__
    class_name, key = match.groups()
    cls = MODELS.get(class_name)
    if cls is None:
        return message
    known = [name for name in inspect.signature(cls).parameters if name not in ('args', 'kwargs')]
    hint = did_you_mean(key, known) or ';'
    return f'config key {key!r} does not exist on {class_name}{hint} it takes {", ".join(known)}'
