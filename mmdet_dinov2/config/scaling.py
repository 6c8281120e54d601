"""Rescales configs to a different number of GPUs.

The batch of each GPU stays, so the total batch changes with the number of GPUs. The learning rate
follows the total batch, and everything counted in iterations changes inversely, so that a run still
sees the same images. The rules are those of d2go's ``auto_scale_world_size``.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from ..errors import InputError
from ..wording import text_table
from .own_types import own_type

LR_RULES = ('none', 'linear', 'sqrt')
# Adam's step does not grow with the gradient, so its noise per image grows only with the square
# root of the batch, and lr has to follow that root (Malladi et al., arXiv:2205.10287). d2go keeps
# the rate of Adam ('none'); many DETR projects scale it like that of SGD ('linear').
DEFAULT_ADAM_RULE = 'sqrt'
_LINEAR_OPTIMIZERS = ('SGD', 'LARS')
# Keys of a scheduler that count iterations unless `by_epoch`.
_SCHEDULER_COUNTS = (
    'begin',
    'end',
    'milestones',
    'T_max',
    'step_size',
    'total_iters',
    'total_steps',
)
# A hook whose interval counts iterations unless `by_epoch`, which is True by default, and one that
# always counts iterations. The log interval is for the reader and stays.
_BY_EPOCH_HOOK = 'IntactCheckpointHook'
_EMA_HOOK = 'TrainedEMAHook'
_SIGNIFICANT_DIGITS = 10


@dataclass(frozen=True)
class ScaledValue:
    """A setting before and after a change: a row of a table.

    Attributes:
        key: Dotted key in the config, or a description.
        old: Value before.
        new: Value after.
    """

    key: str
    old: Any
    new: Any


def auto_scale_world_size(
    cfg: Config, world_size: int, lr_rule: str | None = None
) -> tuple[Config, list[ScaledValue]]:
    """Rescales a config to a different number of processes.

    Images per process stay. With k = world_size / reference_world_size, the learning rate becomes
    lr * k (linear), lr * sqrt(k) or stays; iterations, milestones, warm-up and the intervals of
    evaluation and checkpoints that are counted in iterations become n / k. Counts of epochs
    stay. The momentum of an exponential moving average keeps its horizon in images.

    Args:
        cfg: A config with ``reference_world_size``; it is not changed.
        world_size: Number of processes of the run.
        lr_rule: 'linear', 'sqrt' or 'none'; None takes ``auto_scale_world_size.lr_rule`` of the
            config, or if that is missing, 'linear' for SGD and 'sqrt' for other optimizers.

    Returns:
        The new config, whose ``reference_world_size`` is ``world_size``, and the changed settings.

    Raises:
        InputError: If a number of processes is not positive, the config has no
            ``reference_world_size``, or the rule is unknown.
    """
    _check_world_size('world size', world_size)
    if cfg.get('reference_world_size') is None:
        raise InputError(
            '--auto-scale-world-size needs reference_world_size=N in the config, N being the '
            'number of GPUs that its learning rate and iterations were chosen for'
        )
    _check_world_size('reference_world_size', cfg.reference_world_size)
    rule = _lr_rule(cfg, lr_rule)
    scaler = _Scaler(copy.deepcopy(cfg), world_size / cfg.reference_world_size)
    scaler.set('reference_world_size', world_size)
    scaler.learning_rate(rule)
    scaler.batch(cfg.reference_world_size, world_size)
    scaler.loop()
    scaler.schedulers()
    scaler.hooks()
    return scaler.cfg, scaler.rows


def format_table(rows: list[ScaledValue]) -> str:
    """Formats changed settings as a table with a line of headings."""
    return text_table(
        ('key', 'old', 'new'), [(row.key, str(row.old), str(row.new)) for row in rows]
    )


def _check_world_size(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f'{name} must be a whole number of at least 1, but is {value!r}')


def _lr_rule(cfg: Config, lr_rule: str | None) -> str:
    rule = lr_rule or cfg.get('auto_scale_world_size', {}).get('lr_rule')
    if rule is None:
        linear = cfg.optim_wrapper.optimizer.type in _LINEAR_OPTIMIZERS
        return 'linear' if linear else DEFAULT_ADAM_RULE
    if rule not in LR_RULES:
        raise InputError(f'the lr rule must be one of {", ".join(LR_RULES)}, but is {rule!r}')
    return rule


class _Scaler:
    """A config that is being rescaled, and its changed settings."""

    def __init__(self, cfg: Config, factor: float) -> None:
        self.cfg = cfg
        self.factor = factor
        self.rows: list[ScaledValue] = []

    def set(self, key: str, new: Any) -> None:
        """Sets a value of the config and notes the change."""
        *parents, last = key.split('.')
        node = self.cfg
        for parent in parents:
            node = node[int(parent)] if isinstance(node, list) else node[parent]
        old = node[last]
        node[last] = new
        if old != new:
            self.rows.append(ScaledValue(key, old, new))

    def learning_rate(self, rule: str) -> None:
        factor = {'none': 1.0, 'linear': self.factor, 'sqrt': math.sqrt(self.factor)}[rule]
        lr = self.cfg.optim_wrapper.optimizer.lr
        self.set('optim_wrapper.optimizer.lr', _tidy(lr * factor))

    def batch(self, reference_world_size: int, world_size: int) -> None:
        images = self.cfg.train_dataloader.batch_size * self.cfg.optim_wrapper.get(
            'accumulative_counts', 1
        )
        if reference_world_size != world_size:
            old, new = images * reference_world_size, images * world_size
            self.rows.append(ScaledValue('images per step', old, new))
        base = self.cfg.get('auto_scale_lr', {}).get('base_batch_size')
        if base is not None:
            scaled = base * world_size / reference_world_size
            self.set('auto_scale_lr.base_batch_size', _tidy(scaled))

    def loop(self) -> None:
        loop = self.cfg.train_cfg
        by_epoch = 'max_epochs' in loop
        if by_epoch:
            return
        for key in ('max_iters', 'val_interval', 'val_begin'):
            # val_begin=1 means evaluation from the start; it is not a count.
            if loop.get(key) is not None and not (key == 'val_begin' and loop[key] <= 1):
                self.set(f'train_cfg.{key}', self.iterations(loop[key]))
        intervals = loop.get('dynamic_intervals')
        if intervals:
            scaled = [tuple(self.iterations(n) for n in pair) for pair in intervals]
            self.set('train_cfg.dynamic_intervals', scaled)

    def schedulers(self) -> None:
        schedulers = self.cfg.get('param_scheduler') or []
        if isinstance(schedulers, dict):
            schedulers = self.cfg.param_scheduler = [schedulers]
        for index, scheduler in enumerate(schedulers):
            if scheduler.get('by_epoch', True):
                continue
            for key in _SCHEDULER_COUNTS:
                if scheduler.get(key) is not None:
                    value = scheduler[key]
                    scaled = (
                        [self.iterations(n) for n in value]
                        if isinstance(value, list)
                        else self.iterations(value)
                    )
                    self.set(f'param_scheduler.{index}.{key}', scaled)

    def hooks(self) -> None:
        default = self.cfg.get('default_hooks') or {}
        custom = self.cfg.get('custom_hooks') or []
        places = [f'default_hooks.{name}' for name, hook in default.items() if hook]
        places += [f'custom_hooks.{index}' for index in range(len(custom))]
        hooks = [hook for hook in default.values() if hook] + list(custom)
        for place, hook in zip(places, hooks, strict=True):
            type_ = own_type(hook['type'])
            if type_ == _BY_EPOCH_HOOK and not hook.get('by_epoch', True):
                for key in ('interval', 'save_begin'):
                    if hook.get(key):
                        self.set(f'{place}.{key}', self.iterations(hook[key]))
            if type_ == _EMA_HOOK:
                if hook.get('begin_iter'):
                    self.set(f'{place}.begin_iter', self.iterations(hook['begin_iter']))
                momentum = hook.get('momentum', 0.0002)
                scaled = -math.expm1(self.factor * math.log1p(-momentum))
                if self.factor != 1:
                    hook['momentum'] = momentum
                    self.set(f'{place}.momentum', _tidy(scaled))

    def iterations(self, count: int) -> int:
        """Returns a count of iterations at the new world size, at least 1 if it was."""
        if count <= 0:
            return count
        return max(1, round(count / self.factor))


def _tidy(value: float) -> float:
    """Removes rounding errors, and makes whole numbers integers."""
    short = float(f'{value:.{_SIGNIFICANT_DIGITS}g}')
    if math.isclose(short, value, rel_tol=1e-13):
        value = short
    return int(value) if float(value).is_integer() and value >= 1 else value
