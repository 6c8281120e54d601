"""Experiment loggers of a config: TensorBoard, Weights & Biases, MLflow, ClearML."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..errors import InputError
from .own_types import own_type

# Names of :func:`add_loggers`, which are those of the packages too.
LOGGERS = ('tensorboard', 'wandb', 'mlflow', 'clearml')
_TYPES = dict(
    tensorboard='TensorboardVisBackend',
    wandb='NoCodeWandbVisBackend',
    mlflow='MLflowVisBackend',
    clearml='ClearMLVisBackend',
)
_PROJECT = 'mmdet_dinov2'


def add_loggers(cfg: Config, names: Sequence[str]) -> None:
    """Adds mmengine's backends of experiment loggers to a config, in place.

    Runs are named after the work folder and belong to the project ``mmdet_dinov2``. W&B and MLflow
    write below the work folder. The variables of the loggers (``WANDB_PROJECT``, ``WANDB_MODE``,
    ``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME`` and so on) have precedence.

    Args:
        cfg: A config with its ``work_dir``. Backends that it has already stay as they are.
        names: Of :data:`LOGGERS`; a name may be given twice.

    Raises:
        InputError: If a name is unknown or the package is not installed.
    """
    for name in names:
        if name not in LOGGERS:
            raise InputError(f'logger must be {", ".join(LOGGERS)}, but is {name!r}')
        if not _is_installed(name):
            raise InputError(
                f'logger {name} needs the package {name}, which is not installed; run: '
                f'pip install {name}'
            )
    if not cfg.get('visualizer'):
        cfg.visualizer = dict(type='BoxVisualizer', name='visualizer')
    backends = list(cfg.visualizer.get('vis_backends') or [dict(type='LocalVisBackend')])
    for name in names:
        if all(_type_name(backend) != _TYPES[name] for backend in backends):
            backends.append(_backend(name, cfg.get('work_dir')))
    cfg.visualizer.vis_backends = backends


def drop_missing_tensorboard(cfg: Config) -> list[str]:
    """Removes the TensorBoard backend of a config, in place, if TensorBoard is not installed.

    Args:
        cfg: The config.

    Returns:
        Notes for the log: one, or none if nothing was removed.
    """
    backends = cfg.get('visualizer', {}).get('vis_backends') or []
    kept = [backend for backend in backends if _type_name(backend) != _TYPES['tensorboard']]
    if len(kept) == len(backends) or _is_installed('tensorboard'):
        return []
    cfg.visualizer.vis_backends = kept
    return ['TensorBoard is not installed: its log is left out (`pip install tensorboard`)']


def _is_installed(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    # A folder without code, such as the one in which W&B keeps its runs, has no origin.
    return spec is not None and spec.origin is not None


def _type_name(backend: Mapping[str, Any]) -> str:
    name = own_type(backend['type'])
    return name.rpartition('.')[2] if isinstance(name, str) else name.__name__


def _backend(name: str, work_dir: str | None) -> dict[str, Any]:
    """Returns the config of a backend that no config has set up."""
    backend: dict[str, Any] = dict(type=_TYPES[name])
    run = Path(work_dir).absolute().name if work_dir else None
    if name == 'wandb':
        if work_dir:
            backend['save_dir'] = work_dir  # W&B adds a folder `wandb` itself
        init = dict(project='WANDB_PROJECT', name='WANDB_NAME')
        values = dict(project=_PROJECT, name=run)
        backend['init_kwargs'] = {
            key: values[key] for key, variable in init.items() if variable not in os.environ
        }
        # W&B counts calls; records of a resumed run would start at 0 again.
        backend['define_metric_cfg'] = [dict(name='*', step_metric='iter')]
    elif name == 'mlflow':
        backend['exp_name'] = os.environ.get('MLFLOW_EXPERIMENT_NAME', _PROJECT)
        backend['run_name'] = run
        # By default, all files of the work folder that look like logs would be copied at the end,
        # those that the previous start copied too.
        backend['artifact_suffix'] = ()
        if os.environ.get('MLFLOW_TRACKING_URI'):
            backend['tracking_uri'] = os.environ['MLFLOW_TRACKING_URI']
        else:
            if work_dir:
                backend['save_dir'] = os.path.join(work_dir, 'mlruns')
            # MLflow 3 writes to a folder only where this is set.
            os.environ.setdefault('MLFLOW_ALLOW_FILE_STORE', 'true')
    elif name == 'clearml':
        # ClearML would read the scalars for TensorBoard too, and upload each checkpoint at the end.
        backend['init_kwargs'] = dict(
            project_name=_PROJECT, task_name=run, auto_connect_frameworks=False
        )
        backend['artifact_suffix'] = ()
    return backend
