"""Frozen weights that take two bytes instead of four while a model computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

# Where a network has nearly all of its weights. What autocast leaves in fp32 is not in them.
_MATRIX_LAYERS = (nn.Linear, nn.Conv2d)


class HoldsFrozenWeights(nn.Module):
    """A module that holds the matrices of its frozen layers in bf16 while it computes.

    Under bf16 autocast every forward pass rounds these matrices to bf16 before it multiplies. A
    copy that was rounded once gives the same results bit by bit, in half of the memory.

    From :meth:`hold_frozen` on, which belongs at the beginning of ``forward``, parameters are bf16
    and their fp32 originals lie in the memory of the host: half of the memory on a GPU, half more
    on a CPU. The originals remain the truth:

    - ``state_dict`` returns them. So checkpoints are fp32 and equal what was loaded.
    - What changes parameters from outside finds them in fp32, where they were: they are put back
      (:meth:`release_frozen`) before a state is loaded and before ``to``, ``float``, ``half`` and
      the like; the next forward pass holds them again.
    - Copies of the module have their own.

    Subclasses say in ``_frozen_modules`` what is frozen, and compute with it under bf16 autocast.
    """

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
        if self._originals:
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
        """fp32 parameters of frozen linear layers and convolutions."""
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
