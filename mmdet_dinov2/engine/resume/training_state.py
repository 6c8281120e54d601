"""Builds the checkpoints of a training."""

from __future__ import annotations

import time
from dataclasses import asdict

import mmengine
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner

from ...checkpoint.embedded_config import CONFIG_KEY, plain_config
from ...checkpoint.sharded import gather
from .changes import training_settings


def build_checkpoint(
    runner: Runner, save_optimizer: bool, save_param_scheduler: bool, keep: bool
) -> dict:
    """Builds a checkpoint of a training in the layout of mmengine.

    All processes must call it if the model is sharded, because each of them sends its parts.

    Args:
        runner: A ``StrictRunner`` that trains.
        save_optimizer: Whether to include the optimizer.
        save_param_scheduler: Whether to include the schedulers.
        keep: Whether this process wants the tensors.

    Returns:
        The checkpoint, with whole tensors on the CPU, or None in the place of each if they are not
        wanted. ``meta`` holds the class names (``dataset_meta``), the seed, the config as text
        (``cfg``) and as plain values, the settings that decide the training (``settings``), how the
        images of a step are divided (``batch``) and the steps of an epoch (``epoch_length``).
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    meta = dict(
        cfg=runner.cfg.pretty_text,
        **{CONFIG_KEY: plain_config(runner.cfg.to_dict())},
        seed=runner.seed,
        experiment_name=runner.experiment_name,
        time=time.strftime('%Y%m%d_%H%M%S'),
        mmengine_version=mmengine.__version__,
        batch=asdict(runner.effective_batch),
        settings=training_settings(runner.cfg),
    )
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        meta['epoch_length'] = len(runner.train_dataloader)
    dataset = runner.train_dataloader.dataset
    if hasattr(dataset, 'metainfo'):
        meta['dataset_meta'] = dataset.metainfo
    checkpoint = dict(
        meta=meta,
        state_dict=gather(model.state_dict(), 'cpu', keep),
        message_hub=gather(runner.message_hub.state_dict(), 'cpu', keep),
    )
    if save_optimizer:
        checkpoint['optimizer'] = gather(runner.optim_wrapper.state_dict(), 'cpu', keep)
    if save_param_scheduler and runner.param_schedulers is not None:
        checkpoint['param_schedulers'] = [s.state_dict() for s in runner.param_schedulers]
    return checkpoint
