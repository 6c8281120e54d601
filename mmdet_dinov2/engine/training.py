"""From the name of a config to a trained detector, for Python and for the command line."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from ..config import image_size, scaling
from ..config.files import find_config
from ..config.loggers import add_loggers
from ..config.names import check_loader_keys
from ..config.options import check_options
from ..config.own_types import own_type
from ..data.class_names import fill_classes
from ..data.crowded_images import raise_detection_limit
from ..data.findings import raise_on_errors
from ..data.own_config import (
    repeat_small_training_set,
    require_training_data,
    use_own_data,
)
from ..data.own_data import find_own_data
from ..data.preflight import check_config
from ..data.shapes_dataset import make_sample_data
from ..data.shared_columns import is_first_of_machine
from ..errors import InputError, MissingFileError
from ..runs.checkpoints import find_best_or_last
from . import batch
from .hooks.preemption import STOPPED_EXIT_CODE
from .resume.choose import has_checkpoints
from .runner import StrictRunner
from .unlabeled import name_unlabeled, use_unlabeled

# Arguments of mmengine's wrapper for fp16 that bf16 has no use for.
_OF_FP16 = ('dtype', 'loss_scale', 'use_fsdp')


@dataclass(frozen=True)
class TrainingResult:
    """What a training left.

    Attributes:
        work_dir: Folder with checkpoints, log and saved config.
        scores: Values of the last evaluation by name, such as ``coco/bbox_mAP`` (0..1); empty
            without one.
        checkpoint: The best checkpoint, else the last one; None if there is none.
    """

    work_dir: str
    scores: dict[str, float]
    checkpoint: str | None


def train(
    config: str,
    data: str | os.PathLike | None = None,
    *,
    unlabeled: str | os.PathLike | None = None,
    teacher: str | os.PathLike | None = None,
    work_dir: str | os.PathLike | None = None,
    options: Mapping[str, Any] | None = None,
    resume: bool | str = False,
    amp: bool = False,
    auto_scale_lr: bool = False,
    keep_batch_size: bool = False,
    batch_size: int | str | None = None,
    loggers: Sequence[str] = (),
    preflight: bool = True,
) -> TrainingResult:
    """Trains a detector in this process; the same as ``mmdet_dinov2 train``.

    Args:
        config: Config file, or name of a config of this project such as 'dino_dinov2_s_ft'.
        data: Folder of a dataset to use instead of that of the config; docs/own-data.md lists the
            formats.
        unlabeled: Folder of photos without labels to learn from as well.
        teacher: Checkpoint of a detector that labels them; None takes the averaged weights.
        work_dir: Output folder; by default that of the config, else ``work_dirs/CONFIG_NAME``.
        options: Settings that override the config, by dotted name, as for ``--cfg-options``.
        resume: True to continue from the last checkpoint in the work folder, if there is one; a
            path to continue from that checkpoint.
        amp: Whether to train in bf16 mixed precision.
        auto_scale_lr: Whether to multiply the learning rate by
            batch size / ``auto_scale_lr.base_batch_size``.
        keep_batch_size: Whether to accumulate gradients to reach that batch size.
        batch_size: Number of images that are computed at once; gradients are accumulated to the
            total batch of the recipe. 'auto' takes the largest number that fits into memory.
        loggers: Loggers to use besides those of the config, of ``config.loggers.LOGGERS``.
        preflight: Whether to check the dataset first.

    Returns:
        The work folder, the scores and the checkpoint.

    Raises:
        InputError: If config or dataset cannot be used. The message says what to do.
        KeyboardInterrupt: If the process was asked to stop. The state of the run is saved first.
    """
    cfg = read_config(
        config,
        data=data,
        unlabeled=unlabeled,
        teacher=teacher,
        work_dir=work_dir,
        options=options,
    )
    cfg = set_up_training(
        cfg,
        resume=resume,
        amp=amp,
        auto_scale_lr=auto_scale_lr,
        keep_batch_size=keep_batch_size,
        batch_size=batch_size,
        loggers=loggers,
    )
    check(cfg, ('train', 'val'), preflight)
    runner = build_runner(cfg)
    try:
        runner.train()
    except SystemExit as stop:
        if stop.code != STOPPED_EXIT_CODE:
            raise
        raise KeyboardInterrupt(
            f'the training was asked to stop; its state is in {cfg.work_dir}; resume=True continues'
        ) from None
    history = runner.message_hub.log_scalars
    scores = {
        name.removeprefix('val/'): values.current()
        for name, values in history.items()
        if name.startswith('val/coco/')
    }
    return TrainingResult(cfg.work_dir, scores, find_best_or_last(cfg.work_dir))


def read_config(
    config: str,
    *,
    data: str | os.PathLike | None = None,
    unlabeled: str | os.PathLike | None = None,
    teacher: str | os.PathLike | None = None,
    work_dir: str | os.PathLike | None = None,
    options: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = print,
) -> Config:
    """Reads a config, puts a dataset and options into it, and fills in classes.

    Args:
        config: Config file, or name of a config of this project.
        data: Folder of a dataset. Annotation files that it needs are written to the work folder.
        unlabeled: As for :func:`train`. Settings of it are options, such as ``unlabeled.burn_in``.
        teacher: As for :func:`train`.
        work_dir: Work folder; by default that of the options, else that of the config, else
            ``work_dirs/CONFIG_NAME``.
        options: Settings by dotted name; they have the last word.
        tell: Takes what was found in the dataset, line by line.

    Raises:
        MissingFileError: If the config or the dataset does not exist.
        InputError: If the dataset or an option cannot be used.
    """
    path = find_config(config)
    cfg = Config.fromfile(path)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    options = dict(options or {})
    work_dir = work_dir or options.get('work_dir') or cfg.get('work_dir')
    work_dir = str(work_dir or Path('work_dirs') / Path(path).stem)
    if data:
        found = find_own_data(os.fspath(data), os.path.join(work_dir, 'data'))
        use_own_data(cfg, found)
        for note in found.notes:
            tell(f'data: {note}')
        for warning in found.warnings:
            tell(f'warning: {warning}')
    if unlabeled:
        name_unlabeled(cfg, unlabeled, teacher)
    elif teacher:
        raise InputError(
            '--teacher labels unlabeled photos; give their folder with --unlabeled FOLDER'
        )
    options = check_options(options, cfg)
    if image_size.KEY in options:
        image_size.set_longest_side(cfg, options[image_size.KEY])
    cfg.merge_from_dict(options)
    cfg.work_dir = work_dir
    make_sample_data(cfg)
    fill_classes(cfg)
    note = raise_detection_limit(cfg, options)
    if note:
        tell(f'data: {note}')
    return cfg


def set_up_training(
    cfg: Config,
    *,
    resume: bool | str = False,
    amp: bool = False,
    auto_scale_lr: bool = False,
    keep_batch_size: bool = False,
    batch_size: int | str | None = None,
    auto_scale_world_size: bool = False,
    lr_rule: str | None = None,
    loggers: Sequence[str] = (),
    world_size: int = 1,
    tell: Callable[[str], None] = print,
) -> Config:
    """Applies to a config what a training is asked for; see :func:`train`.

    Args:
        cfg: Config of :func:`read_config`, which may be changed.
        resume: As for :func:`train`.
        amp: As for :func:`train`.
        auto_scale_lr: As for :func:`train`.
        keep_batch_size: As for :func:`train`.
        batch_size: As for :func:`train`.
        auto_scale_world_size: Whether to rescale learning rate and iterations from the config's
            ``reference_world_size`` to the number of processes.
        lr_rule: How the learning rate then follows; one of ``scaling.LR_RULES``.
        loggers: As for :func:`train`.
        world_size: Number of processes.
        tell: Takes what was changed, as text.

    Returns:
        The config to train with.

    Raises:
        InputError: If something is asked for that the config does not allow.
    """
    require_training_data(cfg)
    use_unlabeled(cfg, os.path.join(cfg.work_dir, 'data'), tell)
    if amp:
        cfg.merge_from_dict({'optim_wrapper.type': 'Bf16OptimWrapper'})
        for key in _OF_FP16:
            if cfg.optim_wrapper.pop(key, None) is not None:
                tell(f'--amp computes in bf16, so optim_wrapper.{key} is left out')
    if lr_rule and not auto_scale_world_size:
        raise InputError('--lr-rule works with --auto-scale-world-size only; give both')
    if auto_scale_world_size:
        cfg, rows = scaling.auto_scale_world_size(cfg, world_size, lr_rule)
        tell(scaling.format_table(rows))
    if keep_batch_size:
        batch.keep_batch_size(cfg, world_size)
    if batch_size is not None:
        batch.set_batch_size(cfg, world_size, batch_size)
    if auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise InputError(
                '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=N) in the config, where '
                'N is the total batch size that its learning rate was chosen for'
            )
        cfg.auto_scale_lr.enable = True
    if 'own_data' in cfg:
        step = batch.EffectiveBatch(
            world_size, cfg.train_dataloader.batch_size, batch.check_accumulation(cfg.optim_wrapper)
        )
        note = repeat_small_training_set(cfg, step.total)
        if note:
            tell(f'data: {note}')
    add_loggers(cfg, loggers)
    if resume is True:
        cfg.resume = has_checkpoints(cfg.work_dir)
        if cfg.resume:
            cfg.load_from = None  # the runner chooses
        else:
            tell(
                f'{cfg.work_dir} has no checkpoint to resume from: the training starts from scratch'
            )
    elif resume:
        cfg.resume = True
        cfg.load_from = os.fspath(resume)
    return cfg


def check(
    cfg: Config,
    splits: Sequence[str],
    preflight: bool = True,
    tell: Callable[[str], None] = print,
) -> None:
    """Checks model and data of a config before anything is written.

    Args:
        cfg: The config.
        splits: Data splits to check, of 'train', 'val', 'test'.
        preflight: Whether to check the data too, which one process of each machine does.
        tell: Takes warnings, one by one.

    Raises:
        ValueError: If something cannot be used.
        MissingFileError: If a file is missing.
    """
    check_loader_keys(cfg, splits)
    # Without memory for the parameters, only to see whether all keys are known and fit together.
    with torch.device('meta'):
        MODELS.build(copy.deepcopy(cfg.model))  # mmdet adds keys to what it builds from
    if cfg.get('load_from') and '://' not in cfg.load_from and not os.path.isfile(cfg.load_from):
        raise MissingFileError(f'checkpoint {cfg.load_from} does not exist; check the path')
    # The other processes of a machine have the same files. If the check fails in one process, the
    # launcher ends all.
    if preflight and is_first_of_machine():
        findings = check_config(cfg, splits)
        raise_on_errors(findings)
        for finding in findings:
            if finding.severity == 'warning':
                tell(f'warning [{finding.split}]: {finding.message}')


def build_runner(cfg: Config) -> StrictRunner:
    """Builds the runner.

    Raises:
        InputError: If the config names a different runner.
    """
    cfg.setdefault('runner_type', 'StrictRunner')
    if own_type(cfg.runner_type) != 'StrictRunner':
        raise InputError(
            f"runner_type must be 'StrictRunner' for this tool, but is {cfg.runner_type!r}"
        )
    return StrictRunner.from_cfg(cfg)
