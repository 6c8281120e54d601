"""Compares a run with the checkpoint that it resumes from."""

from __future__ import annotations

from collections.abc import Mapping
from logging import Logger
from typing import Any

from mmengine.config import Config
from mmengine.registry import OPTIMIZERS
from torch.optim import Optimizer

from ...config.own_types import TYPE_KEYS, own_type
from ...config.plain import flatten
from ...config.scaling import ScaledValue, format_table
from ...errors import InputError
from ...wording import first_names
from ..batch import EffectiveBatch, check_resumed_batch

# Parts of a config that decide what a training does, and settings in them that do not matter.
_PARTS = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler')
_PARTS += ('custom_hooks', 'randomness')
_NO_MATTER = ('num_workers', 'persistent_workers', 'pin_memory', 'prefetch_factor')
_NO_MATTER += ('redo_out_of_memory', 'fit_micro_batches')
# The table shows these as the batch.
_OF_BATCH = ('train_dataloader.batch_size', 'optim_wrapper.accumulative_counts')
# The states in a checkpoint override these.
_KEPT = ('optim_wrapper.optimizer.', 'optim_wrapper.paramwise_cfg.', 'param_scheduler.')
_SEED = 'randomness.seed'
_LONGEST_VALUE = 80


def training_settings(cfg: Config) -> dict[str, str]:
    """Collects the settings that decide a training, for the checkpoints to compare with.

    Args:
        cfg: The config of a run.

    Returns:
        The settings as text, by key.
    """
    return {
        key: _as_text(value)
        for part in _PARTS
        if part in cfg
        for key, value in flatten(cfg[part], part)
        if key not in _OF_BATCH and key.rsplit('.', 1)[-1] not in _NO_MATTER and value != {}
    }


def check_changes(
    checkpoint: Mapping[str, Any],
    path: str,
    settings: Mapping[str, str],
    batch: EffectiveBatch,
    classes: tuple[str, ...] | None,
    optimizer: Optimizer,
    logger: Logger,
) -> None:
    """Logs what has changed since a checkpoint, and checks that the run can resume from it.

    Args:
        checkpoint: The checkpoint.
        path: Path of the checkpoint, for messages.
        settings: ``training_settings`` of this run.
        batch: The batch of this run.
        classes: Class names of this run.
        optimizer: Optimizer of this run.
        logger: Receives the table of changes.

    Raises:
        InputError: If the total batch, the optimizer or its parameters differ.
    """
    meta = checkpoint['meta']
    rows, notes = describe_changes(meta, settings, batch, classes)
    if rows:
        table = f'{format_table(rows)}\n{notes}'.rstrip()
        logger.warning(f'this run differs from that of {path}:\n{table}')
    check_resumed_batch(meta, batch, path)
    check_optimizer(meta, checkpoint['optimizer'], optimizer, path)


def describe_changes(
    meta: Mapping[str, Any],
    settings: Mapping[str, str],
    batch: EffectiveBatch,
    classes: tuple[str, ...] | None,
) -> tuple[list[ScaledValue], str]:
    """Describes how a run differs from the checkpoint that it resumes from.

    Args:
        meta: ``meta`` of the checkpoint.
        settings: ``training_settings`` of this run.
        batch: The batch of this run.
        classes: Class names of this run.

    Returns:
        Rows of a table of the differences, and notes on what they mean for the run.
    """
    rows = []
    if 'batch' in meta:
        before = EffectiveBatch(**meta['batch'])
        for key, name in (
            ('world_size', 'processes'),
            ('batch_size', 'images of a process'),
            ('accumulation', 'accumulated micro-batches'),
        ):
            rows.append(ScaledValue(name, getattr(before, key), getattr(batch, key)))
    trained = (meta.get('dataset_meta') or {}).get('classes')
    rows.append(ScaledValue('classes', trained and tuple(trained), classes and tuple(classes)))
    # A checkpoint of mmengine does not hold its settings.
    old = meta.get('settings') or settings
    for key in dict.fromkeys((*old, *settings)):
        rows.append(ScaledValue(key, _own_text(key, old.get(key, '-')), settings.get(key, '-')))
    rows = [
        ScaledValue(row.key, _shorten(row.old), _shorten(row.new))
        for row in rows
        if row.old != row.new
    ]
    notes = []
    if any(row.key.startswith(_KEPT) for row in rows):
        notes.append(
            'Learning rates, weight decay and schedules stay as they are in the checkpoint; to '
            'change them, start a new training from these weights with load_from'
        )
    if any(row.key == _SEED for row in rows):
        notes.append('The seed of the checkpoint is used')
    return rows, '\n'.join(notes)


def check_epoch_length(meta: Mapping[str, Any], length: int, path: str) -> None:
    """Checks that epochs are as long as they were.

    Otherwise the number of steps would not determine the position within an epoch.

    Args:
        meta: ``meta`` of the checkpoint.
        length: Steps of an epoch of this run.
        path: Path of the checkpoint, for the message.

    Raises:
        InputError: If epochs are longer or shorter.
    """
    done = meta['iter'] - meta['epoch'] * length
    # A checkpoint of mmengine does not hold the length.
    if meta.get('epoch_length', length) == length and 0 <= done <= length:
        return
    before = meta.get('epoch_length')
    was = f'{before} steps' if before else f'{meta["iter"]} steps in {meta["epoch"]} epochs'
    raise InputError(
        f'{path} was trained with {was}{" an epoch" if before else ""}, an epoch of this run has '
        f'{length}: use the same training images, batch and drop_last, or start a new training '
        'from these weights with load_from'
    )


def _names(setting: str, kind: type) -> bool:
    """Returns whether ``type`` of a config, as text, is a class or one of its names."""
    if setting in (repr(kind), repr(kind.__name__)):
        return True
    # A registry also finds classes by their module, and may have them under another name.
    return OPTIMIZERS.get(setting.strip("'")) is kind


def check_optimizer(
    meta: Mapping[str, Any],
    state: Mapping[str, Any],
    optimizer: Optimizer,
    path: str,
) -> None:
    """Checks that the optimizer state of a checkpoint belongs to the parameters of a run.

    States are stored by position: with a different set of parameters they would silently go to the
    wrong ones.

    Args:
        meta: ``meta`` of the checkpoint.
        state: State of the optimizer in the checkpoint.
        optimizer: Optimizer of this run.
        path: Path of the checkpoint, for the message.

    Raises:
        InputError: If the type, the parameters or their groups differ.
    """
    remedy = 'or start a new training from these weights with load_from'
    key = 'optim_wrapper.optimizer.type'
    before = (meta.get('settings') or {}).get(key)
    if before is not None and not _names(before, type(optimizer)):
        raise InputError(
            f'{path} was trained with the optimizer {before}, this run has '
            f"'{type(optimizer).__name__}', which cannot use its state: set {key}={before}, "
            f'{remedy}'
        )
    old = [group.get('names') for group in state['param_groups']]
    new = [group.get('names') for group in optimizer.param_groups]
    if None in old or None in new:  # from a constructor that does not name them
        old = [len(group['params']) for group in state['param_groups']]
        new = [len(group['params']) for group in optimizer.param_groups]
        if old != new:
            raise InputError(
                f'{path} was trained with parameter groups of {old} tensors, this run has {new}: '
                f'freeze the same parameters and use the same paramwise_cfg, {remedy}'
            )
    elif sorted(sum(old, [])) != sorted(sum(new, [])):
        freed = [name for name in sum(new, []) if name not in sum(old, [])]
        frozen = [name for name in sum(old, []) if name not in sum(new, [])]
        parts = [f'{len(n)} more ({first_names(n)})' for n in (freed,) if n]
        parts += [f'{len(n)} fewer ({first_names(n)})' for n in (frozen,) if n]
        raise InputError(
            f'{path} was trained with different parameters frozen: this run trains '
            f'{" and ".join(parts)}; set model.backbone.frozen_stages and requires_grad as they '
            f'were, {remedy}'
        )
    elif old != new:
        raise InputError(
            f'{path} was trained with the same parameters in different groups: set '
            f'optim_wrapper.paramwise_cfg as it was, {remedy}'
        )


def _own_text(key: str, text: str) -> str:
    """Returns the text of a setting, with the type that runs in place of an earlier one."""
    name = text.strip("'")
    if key.rsplit('.', 1)[-1] in TYPE_KEYS and own_type(name) != name:
        return repr(own_type(name))
    return text


def _as_text(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else repr(value)


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + '...'
