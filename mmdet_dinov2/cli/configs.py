"""From arguments to a config, and to the checkpoint that they name."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mmengine.config import Config

from ..config.files import find_config, list_configs
from ..engine import training
from ..errors import InputError
from ..runs.checkpoints import find_best_or_last
from .messages import tell


def config_name(args: argparse.Namespace) -> str:
    """Returns the name of the config without folder and suffix."""
    return Path(args.config).stem


def read_config(args: argparse.Namespace) -> Config:
    """Reads the config that the arguments name and applies the common ones.

    See :func:`mmdet_dinov2.engine.training.read_config`.
    """
    os.environ.setdefault('LOCAL_RANK', str(getattr(args, 'local_rank', 0)))
    cfg = training.read_config(
        args.config,
        data=args.data,
        unlabeled=getattr(args, 'unlabeled', None),
        teacher=getattr(args, 'teacher', None),
        work_dir=args.work_dir,
        options=args.cfg_options,
        tell=tell,
    )
    cfg.launcher = getattr(args, 'launcher', 'none')
    return cfg


def find_model(model: str, checkpoint: str | None = None) -> tuple[str | None, str]:
    """Finds the config and the checkpoint to predict with.

    Args:
        model: A checkpoint, a work folder, or a config: a file, or a name of one of this project.
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
        named = model in list_configs() and not os.path.isfile(model)
        if not named and not model.endswith('.py'):
            if checkpoint:
                raise InputError(f'both {model} and --checkpoint {checkpoint} name a checkpoint')
            return None, model
        config = model = find_config(model)
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
