"""From arguments to a checked config, and to the runner and the checkpoint it names."""

from __future__ import annotations

import argparse
import copy
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from ..checkpoint.reading import trust_checkpoints
from ..config.names import check_loader_keys, check_option_names
from ..config.own_types import own_type
from ..data.class_names import fill_classes
from ..data.findings import raise_on_errors
from ..data.own_config import use_own_data
from ..data.own_data import find_own_data
from ..data.preflight import check_config
from ..engine.runner import StrictRunner
from ..errors import InputError
from ..runs.checkpoints import find_best_or_last
from .messages import warn_of_busy_cpu
from .processes import is_first_process


def config_name(args: argparse.Namespace) -> str:
    """Returns the name of the config without folder and suffix."""
    return Path(args.config).stem


def read_config(args: argparse.Namespace) -> Config:
    """Reads the config that the arguments name, applies the common ones and fills in classes.

    The work folder is that of the arguments, else that of the config, else
    ``work_dirs/CONFIG_NAME``. The annotation files that ``--data`` needs are written there.
    ``--cfg-options`` have the last word.

    Raises:
        FileNotFoundError: If the config or the dataset does not exist.
        InputError: If the dataset cannot be used.
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
    if args.data:
        data = find_own_data(args.data, os.path.join(work_dir, 'data'))
        use_own_data(cfg, data)
        if is_first_process():
            print('\n'.join(f'data: {note}' for note in data.notes))
    check_option_names(options, cfg)
    cfg.merge_from_dict(options)
    cfg.work_dir = work_dir
    fill_classes(cfg)
    return cfg


def check(cfg: Config, splits: Sequence[str], preflight: bool = True) -> None:
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
        if is_first_process():
            for finding in findings:
                if finding.severity == 'warning':
                    print(f'warning [{finding.split}]: {finding.message}', file=sys.stderr)


def build_runner(cfg: Config) -> StrictRunner:
    """Builds the runner, after a warning where other programs keep the cores busy.

    Raises:
        InputError: If the config names a different runner.
    """
    cfg.setdefault('runner_type', 'StrictRunner')
    if own_type(cfg.runner_type) != 'StrictRunner':
        raise InputError(
            f"runner_type must be 'StrictRunner' for this tool, but is {cfg.runner_type!r}"
        )
    warn_of_busy_cpu()
    return StrictRunner.from_cfg(cfg)


def find_model(model: str, checkpoint: str | None = None) -> tuple[str | None, str]:
    """Finds the config and the checkpoint to predict with.

    Args:
        model: A checkpoint, a work folder or a config.
        checkpoint: The checkpoint of a config; by default the best one, else the last one, in the
            folder of the config or in its work folder.

    Returns:
        The config, or None to take the one in the checkpoint, and the checkpoint.

    Raises:
        FileNotFoundError: If one of them does not exist.
        InputError: If two checkpoints are named.
    """
    config, folders = None, [model]
    if not os.path.isdir(model):
        if not model.endswith('.py'):
            if checkpoint:
                raise InputError(f'both {model} and --checkpoint {checkpoint} name a checkpoint')
            return None, model
        if not os.path.isfile(model):
            raise FileNotFoundError(f'config {model} does not exist; check the path')
        config = model
        work_dir = Config.fromfile(model).get('work_dir') or f'work_dirs/{Path(model).stem}'
        folders = [os.path.dirname(model) or '.', work_dir]
    if checkpoint:
        return config, checkpoint
    for folder in folders:
        found = find_best_or_last(folder)
        if found:
            return config, str(found)
    raise FileNotFoundError(
        f'there is no best_*.pth and no last_checkpoint in {" or ".join(folders)}; name a '
        'checkpoint'
    )
