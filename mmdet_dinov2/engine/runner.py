"""The runner: mmengine's, also for processes on CPUs, and strict about checkpoints."""

from __future__ import annotations

import copy
import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import torch
from mmengine.config import Config
from mmengine.dist import init_dist, is_distributed, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.fileio import join_path
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner, save_checkpoint
from mmengine.visualization import Visualizer
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader

from ..checkpoint import (
    check_classes,
    checkpoint_classes,
    inner_model,
    load_for_fine_tuning,
    load_state_dict,
    read_checkpoint,
    state_dict_of,
)
from ..checkpoint.sharded import divide_optimizer_state, is_sharded
from ..config.loggers import drop_missing_tensorboard
from ..config.own_types import use_own_types
from ..config.text import readable_config
from ..config.tiles import use_tiles
from ..data.class_names import fill_classes
from ..data.evaluators import fill_evaluator_ann_file
from ..data.shapes_dataset import make_sample_data
from ..environment.unused_gpu import unused_gpu
from ..errors import InputError
from ..evaluation.coco_metric import ClassNameCocoMetric
from ..evaluation.evaluator import BadImageEvaluator
from ..files import write_checkpoint
from ..wording import first_names
from .batch import (
    EffectiveBatch,
    check_accumulation,
    describe_training_batch,
)
from .evaluation_batch import fill_evaluation_batch
from .hooks.preemption import PreemptionHook
from .loading_processes import outlive_signals
from .log import LiveBarHook
from .log.console import limit_console
from .loops import OptimizerStepLoop
from .optim.fsdp import FullyShardedModel, clip_grad_norm
from .optim.known_optimizers import check_optimizer_type
from .reproducible import check_reproducible, use_reproducible_algorithms
from .resume.changes import check_changes, check_epoch_length, training_settings
from .resume.choose import agree_on_checkpoint, check_bytes, check_training_state
from .resume.plain import make_plain, restore_histories
from .resume.training_state import build_checkpoint


@RUNNERS.register_module()
class StrictRunner(Runner):
    """mmengine's ``Runner`` with what detection runs of this project need.

    - Without GPUs, the processes of a distributed run communicate with gloo (mmengine's launchers
      always call CUDA).
    - A checkpoint whose parameters do not fit the model stops the run (mmengine continues with the
      parameters that happen to match).
    - An evaluator without ``ann_file`` reads the file of its dataset.
    - In an evaluation, images that cannot be read count as images without detections.
    - The pipelines of validation and test fit a detector that predicts in tiles.
    - Dataloaders of an evaluation without ``batch_size`` get one.
    - A step whose gradient is not finite is left out (``GuardedOptimWrapper``).
    - With gradient accumulation, an iteration is an optimizer step, not a micro-batch.
    - The effective batch and the learning rate of each parameter group are logged at the start.
    - With ``reproducible=True``, every operation adds in a fixed order.
    - The TensorBoard backend of a config is left out if TensorBoard is not installed.

    Select it with ``runner_type='StrictRunner'`` in a config. :meth:`from_cfg` replaces types of
    mmengine as :mod:`mmdet_dinov2.config.own_types` says, and logs it. A runner that is built
    directly takes the types that it is given; only its training loop has to be one of this project.
    Where no type is given, the default is a class of this project.

    Attributes:
        accumulative_counts: Micro-batches of an optimizer step.
        load_from: Checkpoint to start or resume from; None if there is none.
        resumes: Whether the run resumes, in contrast to starting from the weights of a checkpoint.
        running: 'train', 'val' or 'test', the method that was called last; None before.
    """

    @classmethod
    def from_cfg(cls, cfg: Config) -> StrictRunner:
        """Builds the runner from a config; see mmengine's ``Runner.from_cfg``.

        Raises:
            InputError: If parts of the config do not work together.
        """
        cfg = copy.deepcopy(cfg)
        replaced = use_own_types(cfg)
        use_tiles(cfg)
        make_sample_data(cfg)
        fill_classes(cfg)
        fill_evaluator_ann_file(cfg)
        fill_evaluation_batch(cfg)
        notes = drop_missing_tensorboard(cfg)
        if replaced:
            notes.append(f'Replaced types of the config: {"; ".join(replaced)}')
        sharded = (cfg.get('model_wrapper_cfg') or {}).get('type') == 'FullyShardedModel'
        if sharded and any(h['type'] == 'TrainedEMAHook' for h in cfg.get('custom_hooks') or ()):
            raise InputError(
                'averaged weights (TrainedEMAHook) do not work with FullyShardedModel; leave '
                'one of them out'
            )
        runner = super().from_cfg(cfg)
        for note in notes:
            runner.logger.info(note)
        return runner

    def __init__(
        self,
        *args,
        train_dataloader: DataLoader | dict | None = None,
        optim_wrapper: OptimWrapper | dict | None = None,
        load_from: str | None = None,
        resume: bool = False,
        cfg: Config | dict | None = None,
        **kwargs,
    ) -> None:
        self.accumulative_counts = 1
        self.load_from = load_from
        self.resumes = resume
        self.running: str | None = None
        self._weights_loaded = False
        self._left_out: set[str] = set()  # of checkpoints; each key is logged once
        if isinstance(train_dataloader, dict):
            self._batch_size = train_dataloader['batch_size']
            if isinstance(optim_wrapper, dict):
                self.accumulative_counts = check_accumulation(optim_wrapper)
                # One batch of the dataloader is one optimizer step; the loop divides it.
                train_dataloader = copy.deepcopy(train_dataloader)
                train_dataloader['batch_size'] *= self.accumulative_counts
        else:
            self._batch_size = getattr(train_dataloader, 'batch_size', None)
        super().__init__(
            *args,
            train_dataloader=train_dataloader,
            optim_wrapper=optim_wrapper,
            load_from=load_from,
            resume=resume,
            cfg=readable_config(cfg or {}),
            **kwargs,
        )

    def train(self) -> nn.Module:
        """Trains; see mmengine's ``Runner.train``."""
        self.running = 'train'
        with self._released():
            return super().train()

    def val(self) -> dict:
        """Evaluates on the validation data; see mmengine's ``Runner.val``."""
        self.running = 'val'
        with self._released():
            return super().val()

    def test(self) -> dict:
        """Evaluates on the test data; see mmengine's ``Runner.test``."""
        self.running = 'test'
        with self._released():
            return super().test()

    @contextmanager
    def _released(self) -> Iterator[None]:
        """Gives back what hooks take of the process, also to a notebook whose run failed."""
        try:
            yield
        finally:
            for hook in self.hooks:
                if isinstance(hook, PreemptionHook):
                    hook.stop_listening()
                elif isinstance(hook, LiveBarHook):
                    hook.stop()

    def build_logger(self, log_level: int | str = 'INFO', *args, **kwargs) -> MMLogger:
        """Builds the logger; see mmengine's ``Runner.build_logger``.

        Its console shows what a person needs to see, and everything if the level is 'DEBUG'.
        """
        logger = super().build_logger(log_level, *args, **kwargs)
        if log_level not in ('DEBUG', logging.DEBUG):
            limit_console(logger)
        return logger

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Builds the training loop; see mmengine's ``Runner.build_train_loop``.

        Raises:
            InputError: If its iterations are not optimizer steps.
        """
        if isinstance(loop, dict) and 'type' not in loop:
            others = {key: value for key, value in loop.items() if key != 'by_epoch'}
            default = 'EpochTrainLoop' if loop.get('by_epoch', True) else 'IterTrainLoop'
            loop = dict(others, type=default)
        built = super().build_train_loop(loop)
        if not isinstance(built, OptimizerStepLoop):
            raise InputError(
                'the training loop must be EpochTrainLoop, IterTrainLoop or a subclass of them, '
                f'but is {type(built).__name__}; set train_cfg.type'
            )
        return built

    def register_default_hooks(self, hooks: dict[str, Hook | dict] | None = None) -> None:
        """Registers the default hooks; see mmengine's ``Runner.register_default_hooks``."""
        default = dict(
            checkpoint=dict(type='IntactCheckpointHook', interval=1),
            logger=dict(type='ReadableLoggerHook'),
        )
        super().register_default_hooks({**default, **(hooks or {})})
        console = Console()
        if console.is_terminal and not console.is_dumb_terminal and is_main_process():
            self.register_hook(LiveBarHook())

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Builds a dataloader; see mmengine's ``Runner.build_dataloader``.

        Its processes outlive signals that ask the run to stop.
        """
        loader = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        return loader if isinstance(dataloader, DataLoader) else outlive_signals(loader)

    def build_visualizer(self, visualizer: Visualizer | dict | None = None) -> Visualizer:
        """Builds the visualizer; see mmengine's ``Runner.build_visualizer``.

        It is that of this run alone: mmengine keeps visualizers by their names, and a config may
        give all its runs the same.
        """
        if isinstance(visualizer, dict):
            visualizer = {**visualizer, 'name': self.experiment_name}
        return super().build_visualizer(visualizer)

    def build_evaluator(self, evaluator: Evaluator | dict | list) -> Evaluator:
        """Builds an evaluator; see mmengine's ``Runner.build_evaluator``.

        Metrics without a folder for their report get one below the folder of the log.
        """
        if isinstance(evaluator, dict) and 'metrics' in evaluator:
            evaluator = {'type': 'BadImageEvaluator', **evaluator}
        elif not isinstance(evaluator, Evaluator):
            evaluator = BadImageEvaluator(evaluator)
        built = super().build_evaluator(evaluator)
        for metric in built.metrics:
            if isinstance(metric, ClassNameCocoMetric) and metric.report_dir is None:
                metric.report_dir = os.path.join(self.log_dir, 'evaluation')
        return built

    def scale_lr(self, optim_wrapper: OptimWrapper, auto_scale_lr: dict | None = None) -> None:
        """Scales the learning rates; see mmengine's ``Runner.scale_lr``.

        Accumulated micro-batches are part of the batch. Logs the effective batch and the learning
        rates, scaled or not.
        """
        super().scale_lr(optim_wrapper, auto_scale_lr)
        self.logger.info(
            describe_training_batch(optim_wrapper.optimizer, self.effective_batch, auto_scale_lr)
        )

    def setup_env(self, env_cfg: dict) -> None:
        """Sets up the processes; see mmengine's ``Runner.setup_env``.

        Raises:
            InputError: If there is a GPU that PyTorch cannot use.
        """
        if problem := unused_gpu():
            raise InputError(problem)
        if check_reproducible(self.cfg):
            use_reproducible_algorithms()
        if self.distributed and not is_distributed() and not torch.cuda.is_available():
            _init_cpu_processes(self.launcher, env_cfg.get('dist_cfg', {}).get('timeout'))
        with _gpus_of_task(self.launcher):
            super().setup_env(env_cfg)
        self._timestamp = _new_timestamp(self._timestamp)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wraps the model for distributed training; see mmengine's ``Runner.wrap_model``."""
        if self.distributed and (model_wrapper_cfg or {}).get('type') == 'FullyShardedModel':
            # Parameters are initialised while every process still has all of them.
            model.init_weights()
        default = model_wrapper_cfg is None and not is_model_wrapper(model)
        if self.distributed and default and not torch.cuda.is_available():
            # DDP refuses device ids for a model on the CPU.
            return MMDistributedDataParallel(module=model, broadcast_buffers=False)
        return super().wrap_model(model_wrapper_cfg, model)

    @property
    def effective_batch(self) -> EffectiveBatch:
        """The batch of an optimizer step."""
        return EffectiveBatch(self.world_size, self._batch_size, self.accumulative_counts)

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict | None = None,
        by_epoch: bool = True,
        backend_args: dict | None = None,
    ) -> None:
        """Saves a checkpoint, whole or not at all; see mmengine's ``Runner.save_checkpoint``.

        All processes have to call it: those of a sharded model send their parts.
        """
        if file_client_args is not None:
            raise ValueError('file_client_args is no longer supported; use backend_args')
        if not is_main_process() and not is_sharded(self.model):
            return
        checkpoint = build_checkpoint(
            self, save_optimizer, save_param_scheduler, keep=is_main_process()
        )
        if not is_main_process():
            return
        position = (
            dict(epoch=self.epoch + 1, iter=self.iter)
            if by_epoch
            else dict(epoch=self.epoch, iter=self.iter + 1)
        )
        checkpoint['meta'] = position | checkpoint['meta'] | (meta or {})
        self.call_hook('before_save_checkpoint', checkpoint=checkpoint)
        checkpoint, left_out = make_plain(checkpoint)
        fresh = [f'{key} ({name})' for key, name in left_out.items() if key not in self._left_out]
        if fresh:
            self._left_out.update(left_out)
            self.logger.warning(
                'checkpoints hold tensors, numbers, texts, lists and dicts only, so they lack '
                f'{first_names(fresh)}'
            )
        if '://' in str(out_dir):
            path = join_path(out_dir, filename, backend_args=backend_args)
            save_checkpoint(checkpoint, path, backend_args=backend_args)
            return
        write_checkpoint(checkpoint, os.path.join(out_dir, filename))

    # Private in mmengine: its `train` initialises and broadcasts the weights after the optimizer is
    # built. A sharded model can do neither by then; `wrap_model` has initialised it.
    def _init_model_weights(self) -> None:
        if not isinstance(self.model, FullyShardedModel):
            super()._init_model_weights()

    def build_optim_wrapper(self, optim_wrapper: OptimWrapper | dict) -> OptimWrapper:
        """Builds the optimizer wrapper; see mmengine's ``Runner.build_optim_wrapper``."""
        # A config of several optimizers has no 'optimizer', but a constructor of its own.
        if isinstance(optim_wrapper, dict) and 'optimizer' in optim_wrapper:
            optim_wrapper = {'type': 'GuardedOptimWrapper', **optim_wrapper}
            check_optimizer_type(optim_wrapper['optimizer'])
        wrapper = super().build_optim_wrapper(optim_wrapper)
        if isinstance(self.model, FullyShardedModel) and wrapper.clip_grad_kwargs:
            if wrapper.clip_func is nn.utils.clip_grad_norm_:
                wrapper.clip_func = clip_grad_norm
        return wrapper

    def load_checkpoint(
        self, filename: str, map_location: str = 'cpu', strict: bool = False, revise_keys=None
    ) -> dict:
        """Loads the weights of a checkpoint.

        At the start of a training, everything that fits is loaded, and classes are matched by name.
        To resume and to test, everything has to fit, including the classes.

        Args:
            filename: Path or URL of the checkpoint.
            map_location: Ignored: tensors are loaded to the host, then copied into the model.
            strict: Ignored: the rule above decides.
            revise_keys: Not supported.

        Returns:
            The checkpoint.

        Raises:
            FileNotFoundError: If the file does not exist.
            InputError: If the checkpoint belongs to a different model.
        """
        if revise_keys:
            raise ValueError(f'revise_keys={revise_keys} is not supported by {type(self).__name__}')
        # The optimizer moves its states to where the parameters are, all but the numbers of steps
        # that it counts on the host. Loaded to a GPU, each of them would stop the host every step.
        checkpoint = read_checkpoint(filename, 'cpu')
        # mmengine would run this text as Python code to compare the numbers of GPUs.
        (checkpoint.get('meta') or {}).pop('config', None)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = inner_model(self.model)
        state = state_dict_of(checkpoint, filename)
        training = self.running == 'train'
        if training and not self.resumes:
            classes = self.train_dataloader.dataset.metainfo.get('classes')
            known = checkpoint_classes(checkpoint)
            report = load_for_fine_tuning(model, state, filename, classes, known)
            self.logger.info(f'Started from {report}')
        else:
            if training:
                check_training_state(checkpoint, filename)
                check_changes(
                    checkpoint,
                    filename,
                    training_settings(self.cfg),
                    self.effective_batch,
                    self._classes(),
                    self.optim_wrapper.optimizer,
                    self.logger,
                )
                self._check_epoch_length(checkpoint['meta'], filename)
                restore_histories(checkpoint['message_hub'])
            check_classes(checkpoint, self._classes(), filename)
            load_state_dict(model, state, source=filename)
            if training and is_sharded(model) and 'optimizer' in checkpoint:
                checkpoint['optimizer'] = divide_optimizer_state(
                    checkpoint['optimizer'], self.optim_wrapper.optimizer
                )
            self.logger.info(f'Loaded checkpoint {filename}')
        self._weights_loaded = True
        return checkpoint

    def load_or_resume(self) -> None:
        """Loads the checkpoint that the run starts from; see mmengine's ``Runner.load_or_resume``.

        To resume without a named checkpoint, the main process chooses for all: the last checkpoint
        in the work folder, or an earlier one that is intact. If the folder has none, the training
        starts from scratch.

        Raises:
            FileNotFoundError: If the named checkpoint does not exist.
            InputError: If no checkpoint can be used, or the named one is damaged.
        """
        if self._weights_loaded:
            return
        if not self.resumes:
            if self.load_from is not None:
                self.load_checkpoint(self.load_from)
            return
        if self.load_from is None:
            model = self.model.module if is_model_wrapper(self.model) else self.model
            self.load_from = agree_on_checkpoint(self.work_dir, model, self.logger)
        elif '://' not in str(self.load_from):
            check_bytes(self.load_from)
        if self.load_from is not None:
            self.resume(self.load_from)

    def _check_epoch_length(self, meta: dict, filename: str) -> None:
        loop = self.train_loop
        if isinstance(loop, EpochBasedTrainLoop):
            check_epoch_length(meta, len(loop.dataloader), filename)

    def _classes(self) -> tuple[str, ...] | None:
        """Class names of the dataset of the running loop."""
        if self.running is None:
            return None
        loop = getattr(self, f'{self.running}_loop')
        return loop.dataloader.dataset.metainfo.get('classes')


_timestamps: set[str] = set()


def _new_timestamp(timestamp: str) -> str:
    """Returns the timestamp, later by as many seconds as this process needs for one of its own.

    Runs are named by the second they begin in, and mmengine keeps their logs by name: a second run
    would write into the folder of the first.
    """
    time_format = '%Y%m%d_%H%M%S'
    while timestamp in _timestamps:
        later = datetime.strptime(timestamp, time_format) + timedelta(seconds=1)
        timestamp = later.strftime(time_format)
    _timestamps.add(timestamp)
    return timestamp


@contextmanager
def _gpus_of_task(launcher: str) -> Iterator[None]:
    """Lets mmengine take the only GPU that a task of Slurm sees.

    mmengine takes the GPU with the number of the task on its machine. Where Slurm binds one GPU to
    each task, that one has the number 0 in all of them.
    """
    task = os.environ.get('SLURM_LOCALID')
    if launcher != 'slurm' or task is None or torch.cuda.device_count() != 1:
        yield
        return
    os.environ['SLURM_LOCALID'] = '0'
    try:
        yield
    finally:
        os.environ['SLURM_LOCALID'] = task


def _init_cpu_processes(launcher: str, timeout: float | None) -> None:
    """Joins the process group of a launcher with gloo.

    Args:
        launcher: 'pytorch', 'slurm' or 'mpi'.
        timeout: Seconds that a process waits for the others; None takes the default of PyTorch.
    """
    if launcher == 'slurm':
        os.environ.setdefault('RANK', os.environ['SLURM_PROCID'])
        os.environ.setdefault('WORLD_SIZE', os.environ['SLURM_NTASKS'])
        os.environ['LOCAL_RANK'] = os.environ['SLURM_LOCALID']
        if 'MASTER_ADDR' not in os.environ:
            nodes = os.environ['SLURM_NODELIST']
            hosts = subprocess.run(
                ['scontrol', 'show', 'hostnames', nodes], check=True, capture_output=True, text=True
            ).stdout.split()
            os.environ['MASTER_ADDR'] = hosts[0]
        os.environ.setdefault('MASTER_PORT', '29500')
    elif launcher != 'pytorch':
        init_dist(launcher)
        return
    limit = None if timeout is None else timedelta(seconds=timeout)
    torch.distributed.init_process_group('gloo', timeout=limit)
