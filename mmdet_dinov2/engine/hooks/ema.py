"""Averaged weights without those that never change."""

from __future__ import annotations

from mmengine.hooks import EMAHook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner
from torch import nn


@HOOKS.register_module()
class TrainedEMAHook(EMAHook):
    """mmengine's ``EMAHook`` that averages, and copies, only what is trained.

    A frozen parameter is its own average, to the bit. mmengine's hook keeps a second copy of it and
    averages it in every step.

    Checkpoints are those of mmengine's hook: ``state_dict`` holds the averaged weights,
    ``ema_state_dict`` the others, both with the frozen ones, which are written once. So each of the
    two hooks goes on from the checkpoints of the other.

    Args:
        *args: As for mmengine's ``EMAHook``.
        **kwargs: As for mmengine's ``EMAHook``.
    """

    def before_run(self, runner: Runner) -> None:
        """Copies what is trained."""
        model = runner.model
        self.src_model = model.module if is_model_wrapper(model) else model
        self.ema_model = MODELS.build(
            self.ema_cfg, default_args=dict(model=trained_part(self.src_model))
        )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Puts the averaged weights into ``state_dict``, the others into ``ema_state_dict``."""
        super().before_save_checkpoint(runner, checkpoint)
        ema_state = checkpoint['ema_state_dict']
        for name, tensor in checkpoint['state_dict'].items():
            # The same tensor under two names takes no room in a file.
            ema_state.setdefault(f'module.{name}', tensor)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Goes on with the averaged weights of a checkpoint that the run is resumed from.

        Otherwise the average begins with the first step; until then the weights are their own.
        """
        if not runner._resume:
            return
        if 'ema_state_dict' not in checkpoint:
            runner.logger.warning(
                'the checkpoint holds no averaged weights (ema_state_dict): averaging starts anew'
            )
            return
        self._swap_ema_state_dict(checkpoint)
        known = self.ema_model.state_dict().keys()
        averaged = {k: v for k, v in checkpoint['ema_state_dict'].items() if k in known}
        self.ema_model.load_state_dict(averaged, strict=self.strict_load)

    def _swap_ema_parameters(self) -> None:
        """Exchanges the weights of the model and the averaged ones."""
        if not self.ema_model.steps:  # nothing was averaged yet
            return
        weights = dict(self.src_model.named_parameters())
        averages = dict(self.ema_model.module.named_parameters())
        if self.ema_model.update_buffers:
            weights.update(self.src_model.named_buffers())
            averages.update(self.ema_model.module.named_buffers())
        for name, average in averages.items():
            weight = weights[name].data
            kept = average.data.clone()
            average.data.copy_(weight)
            weight.copy_(kept)


def trained_part(model: nn.Module) -> nn.Module:
    """The trained parameters and all buffers of a model, without its computation.

    Args:
        model: The model.

    Returns:
        A module that shares them with the model, under the same names.
    """
    part = nn.Module()
    # A tensor that several modules share is the same one here too.
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            owner, attribute = _owner(part, name)
            owner.register_parameter(attribute, parameter)
    saved = model.state_dict().keys()
    for name, buffer in model.named_buffers(remove_duplicate=False):
        owner, attribute = _owner(part, name)
        owner.register_buffer(attribute, buffer, persistent=name in saved)
    return part


def _owner(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module of a parameter, made where it is missing, and the name of the parameter in it."""
    *modules, attribute = name.split('.')
    for module in modules:
        if module not in root._modules:
            root.add_module(module, nn.Module())
        root = root._modules[module]
    return root, attribute
