"""The effective batch: processes x images x accumulation."""

from __future__ import annotations

from dataclasses import dataclass

from mmengine.config import Config
from torch.optim import Optimizer

from ..errors import InputError
from ..wording import text_table
from .evaluation_batch import fill_evaluation_batch
from .optim.param_names import describe_names


@dataclass(frozen=True)
class EffectiveBatch:
    """The images of an optimizer step, and how they are divided.

    Attributes:
        world_size: Number of processes, one for each GPU.
        batch_size: Number of images of a micro-batch of one process.
        accumulation: Number of micro-batches of a step.
    """

    world_size: int
    batch_size: int
    accumulation: int = 1

    @property
    def total(self) -> int:
        """Number of images of a step."""
        return self.world_size * self.batch_size * self.accumulation

    def __str__(self) -> str:
        processes = 'process' if self.world_size == 1 else 'processes'
        return (
            f'{self.world_size} {processes} x {self.batch_size} images x {self.accumulation} '
            f'accumulated = {self.total} images a step'
        )


def check_accumulation(optim_wrapper: dict) -> int:
    """Returns ``accumulative_counts`` of an optimizer wrapper's config.

    Raises:
        InputError: If it is not a whole number of at least 1.
    """
    counts = optim_wrapper.get('accumulative_counts', 1)
    if isinstance(counts, bool) or not isinstance(counts, int) or counts < 1:
        raise InputError(
            'optim_wrapper.accumulative_counts must be a whole number of at least 1, but is '
            f'{counts!r}'
        )
    return counts


def keep_batch_size(cfg: Config, world_size: int) -> EffectiveBatch:
    """Sets the accumulation of a config so that the total batch stays.

    Args:
        cfg: A config with ``auto_scale_lr.base_batch_size``, the total batch of the recipe. Its
            ``optim_wrapper.accumulative_counts`` is set.
        world_size: Number of processes.

    Returns:
        The effective batch.

    Raises:
        InputError: If the total cannot be reached exactly.
    """
    total = cfg.get('auto_scale_lr', {}).get('base_batch_size')
    if total is None:
        raise InputError(
            '--keep-batch-size needs auto_scale_lr=dict(base_batch_size=N) in the config, N being '
            'the total batch size of the recipe'
        )
    batch = EffectiveBatch(world_size, cfg.train_dataloader.batch_size)
    accumulation = total // batch.total
    if accumulation * batch.total != total:
        possible = [n * batch.total for n in (accumulation, accumulation + 1) if n]
        sizes = [n for n in range(1, total // world_size + 1) if total % (n * world_size) == 0]
        remedy = (
            f'or set train_dataloader.batch_size to one of {sizes}'
            if sizes
            else f'or use a number of processes that divides {total}'
        )
        raise InputError(
            f'the total batch of {total} images cannot be reached with {world_size} processes x '
            f'{batch.batch_size} images; the nearest possible totals are '
            f'{" and ".join(map(str, possible))} (auto_scale_lr.base_batch_size), {remedy}'
        )
    cfg.optim_wrapper.accumulative_counts = accumulation
    return EffectiveBatch(world_size, batch.batch_size, accumulation)


def set_batch_size(cfg: Config, world_size: int, batch_size: int | str) -> None:
    """Sets the images of a micro-batch, and accumulates to the total batch of the recipe.

    Args:
        cfg: A config; its total batch is ``auto_scale_lr.base_batch_size``, or that of its
            dataloader and accumulation.
        world_size: Number of processes.
        batch_size: Number of images, or 'auto' for the largest number that fits into memory, which
            the training loop finds.

    Raises:
        InputError: If it is not a number of images, or the total cannot be reached exactly.
    """
    if batch_size != 'auto' and (not isinstance(batch_size, int) or batch_size < 1):
        raise InputError(
            f"the batch size must be 'auto' or a whole number of at least 1, but is {batch_size!r}"
        )
    before = EffectiveBatch(
        world_size, cfg.train_dataloader.batch_size, check_accumulation(cfg.optim_wrapper)
    )
    cfg.auto_scale_lr = {'base_batch_size': before.total, **(cfg.get('auto_scale_lr') or {})}
    if batch_size != 'auto':
        cfg.train_dataloader.batch_size = batch_size
        keep_batch_size(cfg, world_size)
        return
    total = cfg.auto_scale_lr.base_batch_size
    if total % world_size:
        raise InputError(
            f'the total batch of {total} images (auto_scale_lr.base_batch_size) cannot be divided '
            f'among {world_size} processes; use a number of processes that divides it'
        )
    # The whole step, which an evaluation need not have room for.
    fill_evaluation_batch(cfg)
    cfg.train_dataloader.batch_size = total // world_size
    cfg.optim_wrapper.accumulative_counts = 1
    cfg.train_cfg.fit_micro_batches = True


def check_resumed_batch(meta: dict, batch: EffectiveBatch, path: str) -> None:
    """Checks that a resumed run has the total batch of its checkpoint, however it is divided.

    Args:
        meta: ``meta`` of the checkpoint.
        batch: The batch of this run.
        path: Path of the checkpoint, for the message.

    Raises:
        InputError: If a step of this run has a different number of images.
    """
    if 'batch' not in meta:  # a checkpoint of mmengine
        return
    before = EffectiveBatch(**meta['batch'])
    if before.total != batch.total:
        raise InputError(
            f'{path} was trained with {before}, but this run has {batch}: learning rate, '
            'schedules and position in the data would not fit; set the number of processes, '
            'train_dataloader.batch_size or optim_wrapper.accumulative_counts to reach the same '
            'total, or start a new training from these weights with load_from'
        )


def describe_training_batch(
    optimizer: Optimizer, batch: EffectiveBatch, auto_scale_lr: dict | None
) -> str:
    """Describes the effective batch and the learning rate of each parameter group.

    Args:
        optimizer: The optimizer; its groups may list the ``names`` of their parameters.
        batch: The effective batch.
        auto_scale_lr: This setting of the config.

    Returns:
        Several lines of text.
    """
    settings = auto_scale_lr or {}
    base = settings.get('base_batch_size')
    lines = [f'Effective batch: {batch}']
    if base is not None:
        scaled = 'were scaled' if settings.get('enable') else 'were not scaled'
        lines.append(f'Learning rates {scaled} from the base batch of {base} images')
    rows = [
        (
            f'{group["lr"]:.3g}',
            f'{group.get("weight_decay", 0):.3g}',
            str(len(group['params'])),
            f'{sum(p.numel() for p in group["params"]):,}',
            describe_names(group.get('names', [])),
        )
        for group in optimizer.param_groups
    ]
    lines.append(text_table(('lr', 'weight decay', 'tensors', 'parameters', 'modules'), rows))
    return '\n'.join(lines)
