"""Learning rates during a training, computed from its config alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from ..data.own_config import repeat_small_training_set
from ..drawing.figures import save_figure
from ..engine.batch import EffectiveBatch, check_accumulation
from ..engine.optim.param_names import describe_names
from ..errors import InputError

# Largest number of points of a curve: more than a picture has columns.
_MAX_POINTS = 4000


@dataclass(frozen=True)
class LrCurve:
    """Learning rate of a parameter group.

    Attributes:
        names: Names of its parameters.
        num_parameters: Total size of its parameters.
        iterations: Optimizer steps, shape (N,).
        rates: Learning rate at each of these steps, shape (N,).
    """

    names: tuple[str, ...]
    num_parameters: int
    iterations: np.ndarray
    rates: np.ndarray


def epoch_length(cfg: Config, world_size: int = 1) -> int:
    """Returns the number of optimizer steps of an epoch, from the size of the training data.

    Args:
        cfg: The config of a training; own data of few images are repeated in it, as in training.
        world_size: Number of processes.
    """
    accumulation = check_accumulation(cfg.optim_wrapper)
    images = EffectiveBatch(world_size, cfg.train_dataloader.batch_size, accumulation).total
    if 'own_data' in cfg and 'times' not in cfg.train_dataloader.dataset:
        repeat_small_training_set(cfg, images)
    count = len(DATASETS.build(cfg.train_dataloader.dataset))
    return count // images if cfg.train_dataloader.get('drop_last') else -(-count // images)


def lr_curves(cfg: Config, epoch_length: int | None = None) -> list[LrCurve]:
    """Simulates the schedulers of a config.

    Args:
        cfg: A config.
        epoch_length: Number of optimizer steps per epoch; needed if the config counts in epochs.

    Returns:
        A curve for each parameter group.

    Raises:
        InputError: If ``epoch_length`` is missing or not positive.
    """
    if epoch_length is not None and epoch_length < 1:
        raise InputError(f'epoch length must be at least 1 step, but is {epoch_length}')
    parts = cfg.get('param_scheduler') or []
    parts = [parts] if isinstance(parts, dict) else parts
    by_epoch = 'max_epochs' in cfg.train_cfg
    if epoch_length is None and (by_epoch or any(part.get('by_epoch', True) for part in parts)):
        raise InputError(
            'the config counts in epochs, so the number of optimizer steps per epoch is needed'
        )
    max_iters = (
        cfg.train_cfg.max_epochs * epoch_length if by_epoch else int(cfg.train_cfg.max_iters)
    )
    groups = _param_groups(cfg)
    # One number for each group is enough: schedulers do not look at the parameters.
    optimizer = torch.optim.SGD(
        [dict(params=[nn.Parameter(torch.zeros(()))], lr=group['lr']) for group in groups]
    )
    schedulers = [_build_scheduler(part, optimizer, epoch_length) for part in parts]
    stride = -(-max_iters // _MAX_POINTS)
    iterations, rates = [], []
    for iteration in range(max_iters):
        if iteration % stride == 0 or iteration == max_iters - 1:
            iterations.append(iteration)
            rates.append([group['lr'] for group in optimizer.param_groups])
        optimizer.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or (iteration + 1) % epoch_length == 0:
                scheduler.step()
    table = np.array(rates)
    return [
        LrCurve(
            names=tuple(group['names']),
            num_parameters=sum(p.numel() for p in group['params']),
            iterations=np.array(iterations),
            rates=table[:, index],
        )
        for index, group in enumerate(groups)
    ]


def _param_groups(cfg: Config) -> list[dict]:
    with torch.device('meta'):
        model = MODELS.build(copy.deepcopy(cfg.model))
    wrapper = copy.deepcopy(cfg.optim_wrapper)
    # Some wrappers need a GPU; the parameter groups do not depend on the wrapper.
    wrapper = dict(wrapper, type='OptimWrapper')
    for key in ('dtype', 'loss_scale', 'accumulative_counts', 'use_fsdp'):
        wrapper.pop(key, None)
    groups = build_optim_wrapper(model, wrapper).optimizer.param_groups
    named = {id(p): name for name, p in model.named_parameters()}
    for group in groups:
        group.setdefault('names', [named[id(p)] for p in group['params']])
    return groups


def _build_scheduler(part: dict, optimizer: torch.optim.Optimizer, epoch_length: int | None):
    part = dict(part)
    scheduler_type = PARAM_SCHEDULERS.get(part.pop('type'))
    if part.pop('convert_to_iter_based', False):
        return scheduler_type.build_iter_from_epoch(
            optimizer=optimizer, epoch_length=epoch_length, **part
        )
    return scheduler_type(optimizer=optimizer, **part)


def draw_lr_curves(curves: list[LrCurve], path: str | Path, title: str) -> None:
    """Draws the curves on a logarithmic axis; equal curves become one line.

    Args:
        curves: The curves.
        path: Picture file; its folder is created.
        title: Heading of the picture.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    distinct: dict[bytes, list[LrCurve]] = {}
    for curve in curves:
        distinct.setdefault(curve.rates.tobytes(), []).append(curve)
    highest_first = sorted(distinct.values(), key=lambda same: -same[0].rates.max())
    figure = Figure(figsize=(9, 5 + 0.1 * len(distinct)), layout='constrained')
    axes = figure.subplots()
    colors = colormaps['viridis'](np.linspace(0.0, 0.9, len(distinct)))
    for color, same in zip(colors, highest_first, strict=True):
        label = _describe(
            [name for curve in same for name in curve.names],
            sum(curve.num_parameters for curve in same),
        )
        axes.plot(same[0].iterations, same[0].rates, color=color, label=label)
    axes.set(title=title, xlabel='optimizer step', ylabel='learning rate', yscale='log')
    axes.grid(alpha=0.3)
    figure.legend(fontsize=7, loc='outside lower center', ncols=2)
    save_figure(figure, path)


def describe_group(curve: LrCurve) -> str:
    """Returns a short text that identifies the parameter group of a curve."""
    return _describe(curve.names, curve.num_parameters)


def _describe(names: Sequence[str], num_parameters: int) -> str:
    return f'{describe_names(names)} ({num_parameters:,})'
