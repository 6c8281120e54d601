"""Averaged weights without those that never change."""

from __future__ import annotations

from mmengine.hooks import EMAHook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner
from torch import nn

_PREFIX = 'module.'  # of the names in `ema_state_dict`


@HOOKS.register_module()
class TrainedEMAHook(EMAHook):
    """mmengine's ``EMAHook`` that copies and averages only what is trained.

    A frozen parameter equals its average to the bit. mmengine's hook keeps a second copy of it and
    averages it in every step.

    The checkpoints are those of mmengine's hook: ``state_dict`` holds the averaged weights and
    ``ema_state_dict`` the trained ones. Both contain the frozen weights, which are written once.
    Each of the two hooks can therefore resume from the checkpoints of the other.

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
        """Puts the averaged weights into ``state_dict``, the trained ones into ``ema_state_dict``.

        Args:
            runner: The runner.
            checkpoint: The checkpoint, changed in place.
        """
        super().before_save_checkpoint(runner, checkpoint)
        ema_state = checkpoint['ema_state_dict']
        for name, tensor in checkpoint['state_dict'].items():
            # The same tensor under two names takes no room in a file.
            ema_state.setdefault(f'{_PREFIX}{name}', tensor)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Takes the averaged weights of the checkpoint that the run resumes from.

        A run that does not resume starts its average with the first step.

        Args:
            runner: The runner.
            checkpoint: The checkpoint; its ``state_dict`` holds the trained weights afterwards.
        """
        # Private in mmengine 0.10.12, which has no public way to ask.
        if not runner._resume:
            return
        if 'ema_state_dict' not in checkpoint:
            runner.logger.warning(
                'the checkpoint does not hold averaged weights (ema_state_dict): averaging starts '
                'from scratch'
            )
            return
        state, ema_state = checkpoint['state_dict'], checkpoint['ema_state_dict']
        averages = {**ema_state, **{f'{_PREFIX}{name}': state[name] for name in state}}
        for name, tensor in ema_state.items():
            if name.startswith(_PREFIX):
                state[name.removeprefix(_PREFIX)] = tensor
        known = self.ema_model.state_dict().keys()
        self.ema_model.load_state_dict(
            {name: tensor for name, tensor in averages.items() if name in known},
            strict=self.strict_load,
        )

    def before_val_epoch(self, runner: Runner) -> None:
        """Puts the averaged weights into the model."""
        self.exchange_weights()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Puts the trained weights back into the model."""
        self.exchange_weights()

    before_test_epoch, after_test_epoch = before_val_epoch, after_val_epoch

    def exchange_weights(self) -> None:
        """Exchanges the weights of the model and the averaged ones.

        Does nothing before the first step: nothing has been averaged yet.
        """
        if not self.ema_model.steps:
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
    """Builds a module of the trained parameters and all buffers of a model.

    Args:
        model: The model.

    Returns:
        A module without computation that shares them with the model, under the same names.
    """
    part = nn.Module()
    # A tensor that several modules share is also shared here.
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
    """Returns the module of a parameter, made if missing, and the parameter's name in it."""
    *modules, attribute = name.split('.')
    for module in modules:
        if module not in dict(root.named_children()):
            root.add_module(module, nn.Module())
        root = root.get_submodule(module)
    return root, attribute
