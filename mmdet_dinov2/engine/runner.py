"""The runner: mmengine's, for CPU processes too, and strict about checkpoints."""

from __future__ import annotations

import copy
import os
import subprocess

import torch
from mmengine.config import Config
from mmengine.dist import init_dist, is_distributed
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner
from torch import nn

from ..checkpoint import (
    check_classes,
    checkpoint_classes,
    load_for_fine_tuning,
    load_state_dict,
    read_checkpoint,
    state_dict_of,
)
from ..data.evaluators import fill_evaluator_ann_file


@RUNNERS.register_module()
class DetectionRunner(Runner):
    """mmengine's ``Runner`` with what detection runs of this project need.

    - Without GPUs, the processes of a distributed run talk over gloo (mmengine's launchers call
      CUDA in any case).
    - A checkpoint whose parameters do not fit the model stops the run (mmengine goes on with the
      parameters that happen to match).

    - An evaluator without ``ann_file`` reads that of its data set.

    Chosen by ``runner_type='DetectionRunner'`` in a config.
    """

    @classmethod
    def from_cfg(cls, cfg: Config) -> DetectionRunner:
        """Builds the runner from a config; see mmengine's ``Runner.from_cfg``."""
        cfg = copy.deepcopy(cfg)
        fill_evaluator_ann_file(cfg)
        return super().from_cfg(cfg)

    def setup_env(self, env_cfg: dict) -> None:
        """Sets up the processes; see mmengine's ``Runner.setup_env``."""
        if self.distributed and not is_distributed() and not torch.cuda.is_available():
            _init_cpu_processes(self.launcher)
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wraps the model for distributed training; see mmengine's ``Runner.wrap_model``."""
        default = model_wrapper_cfg is None and not is_model_wrapper(model)
        if self.distributed and default and not torch.cuda.is_available():
            # DDP refuses device ids for a model on the CPU.
            return MMDistributedDataParallel(module=model, broadcast_buffers=False)
        return super().wrap_model(model_wrapper_cfg, model)

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
        checkpoint = read_checkpoint(filename, map_location)
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
            check_classes(checkpoint, self._classes(), filename)
            load_state_dict(model, state, source=filename)
            self.logger.info(f'Loaded checkpoint {filename}')
        self._has_loaded = True
        return checkpoint

    def _classes(self) -> tuple[str, ...] | None:
        """Class names of the data set of the loop that was built."""
        for loop in (self._train_loop, self._val_loop, self._test_loop):
            if isinstance(loop, BaseLoop):
                return loop.dataloader.dataset.metainfo.get('classes')
        return None


def _init_cpu_processes(launcher: str) -> None:
    """Joins the process group of a launcher with gloo."""
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
    torch.distributed.init_process_group('gloo')
