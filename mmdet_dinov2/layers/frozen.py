"""Frozen weights in two bytes instead of four while a model computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

# Layers that hold nearly all weights of a network. Autocast runs all of them in bf16.
_MATRIX_LAYERS = (nn.Linear, nn.Conv2d)


class HoldsFrozenWeights(nn.Module):
    """A module that holds the matrices of its frozen layers in bf16 while it computes.

    Under bf16 autocast, every forward pass rounds these matrices to bf16 before it multiplies. A
    copy that was rounded once gives the same results bit by bit, in half the memory.

    ``forward`` starts with :meth:`hold_frozen`. From then on the parameters are bf16, and their
    fp32 originals are in the memory of the host. This takes half the memory on a GPU, and half as
    much again on a CPU. The originals remain authoritative:

    - ``state_dict`` returns them. So checkpoints are fp32 and equal what was loaded.
    - Before a state is loaded and before ``to``, ``float``, ``half`` and the like,
      :meth:`release_frozen` puts them back. So whatever changes parameters from outside finds them
      in fp32 in their place. The next forward pass holds them again.
    - Copies of the module have their own originals.

    Attributes:
        can_hold: Whether it holds anything; False where something else moves the parameters, such
            as a wrapper that divides them over processes.

    Subclasses return the frozen modules from ``_frozen_modules``, and run them under bf16 autocast.
    """

    can_hold = True

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._originals: dict[str, Tensor] = {}
        self.register_state_dict_post_hook(_return_originals)
        # It runs before the layers inside are loaded.
        self.register_load_state_dict_pre_hook(_release_before_load)

    def _frozen_modules(self) -> list[nn.Module]:
        raise NotImplementedError

    def hold_frozen(self) -> None:
        """Rounds the frozen matrices to bf16; their originals move to the host."""
        if self._originals or not self.can_hold:
            return
        for name, parameter in self._frozen_matrices():
            self._originals[name] = parameter.data.cpu()
            parameter.data = parameter.data.bfloat16()

    def release_frozen(self) -> None:
        """Puts the originals back."""
        originals, self._originals = self._originals, {}
        for name, original in originals.items():
            parameter = self.get_parameter(name)
            parameter.data = original.to(parameter.device)

    def _frozen_matrices(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields the fp32 parameters of frozen linear layers and convolutions."""
        names = {parameter: name for name, parameter in self.named_parameters()}
        for frozen in self._frozen_modules():
            for module in frozen.modules():
                if isinstance(module, _MATRIX_LAYERS):
                    for parameter in module.parameters(recurse=False):
                        if parameter.dtype == torch.float32:
                            yield names[parameter], parameter

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        # Private: `to`, `cuda`, `float` and the like of this module, or of one around it, have
        # nothing else in common, and no hook.
        self.release_frozen()
        return super()._apply(fn, recurse)


def _release_before_load(module: HoldsFrozenWeights, *args) -> None:
    module.release_frozen()


def _return_originals(
    module: HoldsFrozenWeights, state_dict: dict, prefix: str, local_metadata: dict
) -> None:
    for name, original in module._originals.items():
        state_dict[prefix + name] = original
