"""The runner: mmengine's, for CPU processes too, and strict about checkpoints."""

from __future__ import annotations

import copy
import importlib.util
import os
import subprocess
from collections.abc import Callable
from datetime import timedelta

import torch
from mmengine.config import Config
from mmengine.dist import init_dist, is_distributed, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.fileio import join_path
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner, save_checkpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..checkpoint import (
    check_classes,
    checkpoint_classes,
    load_for_fine_tuning,
    load_state_dict,
    read_checkpoint,
    state_dict_of,
)
from ..checkpoint.sharded import divide_optimizer_state, is_sharded
from ..config.text import ReadableConfig
from ..data.class_names import fill_classes
from ..data.evaluators import fill_evaluator_ann_file
from ..errors import InputError
from ..evaluation.coco_metric import ClassNameCocoMetric
from ..evaluation.evaluator import BadImageEvaluator
from ..files import write_checkpoint
from .batch import (
    EffectiveBatch,
    check_accumulation,
    describe_training_batch,
)
from .loading_processes import outlive_signals
from .loops import STEP_LOOPS
from .optim.fsdp import FullyShardedModel, clip_grad_norm
from .reproducible import check_reproducible, use_reproducible_algorithms
from .resume.changes import check_changes, check_epoch_length, training_settings
from .resume.choose import agree_on_checkpoint, check_bytes, check_training_state
from .resume.training_state import build_checkpoint


@RUNNERS.register_module()
class StrictRunner(Runner):
    """mmengine's ``Runner`` with what detection runs of this project need.

    - Without GPUs, the processes of a distributed run talk over gloo (mmengine's launchers call
      CUDA in any case).
    - A checkpoint whose parameters do not fit the model stops the run (mmengine goes on with the
      parameters that happen to match).
    - An evaluator without ``ann_file`` reads that of its data set.
    - In an evaluation images that cannot be read count as images without detections.
    - A step whose gradient is not finite is left out (``GuardedOptimWrapper``).
    - With gradient accumulation an iteration is an optimizer step, not a micro-batch.
    - The effective batch and the learning rate of each parameter group are logged at the start.
    - ``reproducible=True`` makes every operation add in a fixed order.
    - The TensorBoard backend of a config is left out where TensorBoard is not installed.

    Chosen by ``runner_type='StrictRunner'`` in a config.
    """

    @classmethod
    def from_cfg(cls, cfg: Config) -> StrictRunner:
        """Builds the runner from a config; see mmengine's ``Runner.from_cfg``."""
        cfg = copy.deepcopy(cfg)
        fill_classes(cfg)
        fill_evaluator_ann_file(cfg)
        _drop_missing_tensorboard(cfg)
        sharded = (cfg.get('model_wrapper_cfg') or {}).get('type') == 'FullyShardedModel'
        for hook in cfg.get('custom_hooks') or []:
            if hook['type'] == 'EMAHook':
                hook['type'] = 'TrainedEMAHook'
            if sharded and hook['type'] == 'TrainedEMAHook':
                raise InputError(
                    'averaged weights (TrainedEMAHook) do not work with FullyShardedModel; leave '
                    'one of them out'
                )
        checkpoint_hook = cfg.get('default_hooks', {}).get('checkpoint')
        if checkpoint_hook and checkpoint_hook['type'] == 'CheckpointHook':
            checkpoint_hook['type'] = 'IntactCheckpointHook'
        return super().from_cfg(cfg)

    def __init__(
        self, *args, train_dataloader=None, optim_wrapper=None, cfg=None, **kwargs
    ) -> None:
        self.accumulative_counts = 1
        # Set by signal handlers; agreed on by all processes at the end of a step.
        self.stop_requested = False
        self.stop_agreed = False
        # What hooks count in a step of this process, by name; the same names in all processes.
        self.step_counters: dict[str, Callable[[], int]] = {}
        # Their sums over the processes, and the losses of this one, after a step.
        self.step_sums: dict[str, int] = {}
        self.losses_here: list[dict[str, Tensor]] = []
        if isinstance(optim_wrapper, dict) and isinstance(train_dataloader, dict):
            self.accumulative_counts = check_accumulation(optim_wrapper)
            # One batch of the dataloader is one optimizer step; the loop divides it.
            train_dataloader = copy.deepcopy(train_dataloader)
            train_dataloader['batch_size'] *= self.accumulative_counts
        super().__init__(
            *args,
            train_dataloader=train_dataloader,
            optim_wrapper=optim_wrapper,
            cfg=ReadableConfig.of(cfg or {}),
            **kwargs,
        )

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Builds the training loop; mmengine's own ones are replaced by those of this project."""
        if isinstance(loop, dict):
            loop = dict(loop)
            if 'type' not in loop:
                by_epoch = loop.pop('by_epoch', True)
                loop['type'] = 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop'
            loop['type'] = STEP_LOOPS.get(loop['type'], loop['type'])
        return super().build_train_loop(loop)

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Builds a dataloader; see mmengine's ``Runner.build_dataloader``.

        Its processes outlive signals that ask the run to stop.
        """
        loader = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        return loader if isinstance(dataloader, DataLoader) else outlive_signals(loader)

    def build_evaluator(self, evaluator: Evaluator | dict | list) -> Evaluator:
        """Builds an evaluator; metrics without a folder for their report get one."""
        built = super().build_evaluator(evaluator)
        if type(built) is Evaluator:
            built = BadImageEvaluator(built.metrics)
        for metric in built.metrics:
            if isinstance(metric, ClassNameCocoMetric) and metric.report_dir is None:
                metric.report_dir = os.path.join(self.log_dir, 'evaluation')
        return built

    def scale_lr(self, optim_wrapper: OptimWrapper, auto_scale_lr: dict | None = None) -> None:
        """Scales the learning rates; see mmengine's ``Runner.scale_lr``.

        Accumulated micro-batches count as part of the batch. Logs the effective batch and the
        learning rates, scaled or not.
        """
        super().scale_lr(optim_wrapper, auto_scale_lr)
        self.logger.info(
            describe_training_batch(optim_wrapper.optimizer, self.effective_batch, auto_scale_lr)
        )

    def setup_env(self, env_cfg: dict) -> None:
        """Sets up the processes; see mmengine's ``Runner.setup_env``."""
        if check_reproducible(self.cfg):
            use_reproducible_algorithms()
        if self.distributed and not is_distributed() and not torch.cuda.is_available():
            _init_cpu_processes(self.launcher, env_cfg.get('dist_cfg', {}).get('timeout'))
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wraps the model for distributed training; see mmengine's ``Runner.wrap_model``."""
        if self.distributed and (model_wrapper_cfg or {}).get('type') == 'FullyShardedModel':
            # Parameters are initialised whole, while every process has all of them.
            model.init_weights()
        default = model_wrapper_cfg is None and not is_model_wrapper(model)
        if self.distributed and default and not torch.cuda.is_available():
            # DDP refuses device ids for a model on the CPU.
            return MMDistributedDataParallel(module=model, broadcast_buffers=False)
        return super().wrap_model(model_wrapper_cfg, model)

    @property
    def effective_batch(self) -> EffectiveBatch:
        """The batch of an optimizer step."""
        loader = self._train_dataloader
        batch_size = loader['batch_size'] if isinstance(loader, dict) else loader.batch_size
        return EffectiveBatch(
            self.world_size, batch_size // self.accumulative_counts, self.accumulative_counts
        )

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
            raise ValueError('file_client_args is not supported any more; use backend_args')
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
        if '://' in str(out_dir):
            path = join_path(out_dir, filename, backend_args=backend_args)
            save_checkpoint(checkpoint, path, backend_args=backend_args)
            return
        write_checkpoint(checkpoint, os.path.join(out_dir, filename))

    def _init_model_weights(self) -> None:
        if not isinstance(self.model, FullyShardedModel):  # initialised before it was divided
            super()._init_model_weights()

    def build_optim_wrapper(self, optim_wrapper: OptimWrapper | dict) -> OptimWrapper:
        """Builds the optimizer wrapper; see mmengine's ``Runner.build_optim_wrapper``."""
        # Several optimizers come without 'optimizer', from a constructor of their own.
        if isinstance(optim_wrapper, dict) and 'optimizer' in optim_wrapper:
            if optim_wrapper.get('type', 'OptimWrapper') in ('OptimWrapper', OptimWrapper):
                optim_wrapper = dict(optim_wrapper, type='GuardedOptimWrapper')
        wrapper = super().build_optim_wrapper(optim_wrapper)
        if isinstance(self.model, FullyShardedModel) and wrapper.clip_grad_kwargs:
            if wrapper.clip_func is nn.utils.clip_grad_norm_:
                wrapper.clip_func = clip_grad_norm
        return wrapper

    def load_checkpoint(
        self, filename: str, map_location: str = 'cpu', strict: bool = False, revise_keys=None
    ) -> dict:
        """Loads the weights of a checkpoint.

        As the start of a training, what fits is taken and classes are matched by name; to resume
        and to test, everything has to fit, the classes too.

        Args:
            filename: Path or URL of the checkpoint.
            map_location: Where tensors are loaded to.
            strict: Not needed: what fits is decided as said above.
            revise_keys: Not supported.

        Returns:
            The checkpoint.

        Raises:
            FileNotFoundError: If there is no such file.
            InputError: If the checkpoint is that of another model.
        """
        if revise_keys:
            raise ValueError(f'revise_keys={revise_keys} is not supported by {type(self).__name__}')
        if is_sharded(self.model):  # whole tensors might not fit where the parts do
            map_location = 'cpu'
        checkpoint = read_checkpoint(filename, map_location)
        # mmengine would run it as Python code to compare numbers of GPUs.
        (checkpoint.get('meta') or {}).pop('config', None)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        state = state_dict_of(checkpoint, filename)
        training = isinstance(self._train_loop, BaseLoop)
        if training and not self._resume:
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
            check_classes(checkpoint, self._classes(), filename)
            load_state_dict(model, state, source=filename)
            if training and is_sharded(model) and 'optimizer' in checkpoint:
                checkpoint['optimizer'] = divide_optimizer_state(
                    checkpoint['optimizer'], self.optim_wrapper.optimizer
                )
            self.logger.info(f'Loaded checkpoint {filename}')
        self._has_loaded = True
        return checkpoint

    def load_or_resume(self) -> None:
        """Loads the checkpoint that the run starts from; see mmengine's ``Runner.load_or_resume``.

        Without a named one, the main process chooses for all of them: the last checkpoint in the
        work folder, or an intact one from before. In a folder without any the training starts anew.

        Raises:
            FileNotFoundError: If the named checkpoint does not exist.
            InputError: If no checkpoint can be used, or the named one is damaged.
        """
        if self._resume and not self._has_loaded:
            if self._load_from is None:
                model = self.model.module if is_model_wrapper(self.model) else self.model
                self._load_from = agree_on_checkpoint(self.work_dir, model, self.logger)
            elif '://' not in str(self._load_from):
                check_bytes(self._load_from)
        super().load_or_resume()

    def _check_epoch_length(self, meta: dict, filename: str) -> None:
        loop = self.train_loop
        if isinstance(loop, EpochBasedTrainLoop):
            check_epoch_length(meta, len(loop.dataloader), filename)

    def _classes(self) -> tuple[str, ...] | None:
        """Class names of the data set of the loop that was built."""
        for loop in (self._train_loop, self._val_loop, self._test_loop):
            if isinstance(loop, BaseLoop):
                return loop.dataloader.dataset.metainfo.get('classes')
        return None


def _drop_missing_tensorboard(cfg: Config) -> None:
    if importlib.util.find_spec('tensorboard') is not None:
        return
    backends = cfg.get('visualizer', {}).get('vis_backends') or []
    kept = [backend for backend in backends if backend['type'] != 'TensorboardVisBackend']
    if len(kept) < len(backends):
        cfg.visualizer.vis_backends = kept
        if os.environ.get('RANK', '0') == '0':
            print('TensorBoard is not installed: its log is left out (`pip install tensorboard`)')


def _init_cpu_processes(launcher: str, timeout: float | None) -> None:
    """Joins the process group of a launcher with gloo, which waits for others ``timeout`` s."""
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
