"""How finely the images of a step are divided, given the memory that earlier steps needed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..errors import InputError

# Steps before a division that memory forced is tried without, at first; each failure doubles it.
_FIRST_PATIENCE = 50
_LAST_PATIENCE = 3200


class MicroBatchPlan:
    """Divides steps into micro-batches, more finely after memory was exhausted.

    The gradient of a step does not depend on how its images are divided. After a number of steps in
    which memory sufficed, the plan takes back the last division.

    Args:
        accumulation: Number of micro-batches that the config asks for.

    Attributes:
        recomputes: Whether activations are computed again in the backward pass, where the model can
            do so.
    """

    def __init__(self, accumulation: int = 1) -> None:
        self._accumulation = accumulation
        self._factor = 1
        self.recomputes = False
        self._patience = _FIRST_PATIENCE
        self._steps_to_wait = 0

    def num_parts(self, num_images: int) -> int:
        """Returns the number of micro-batches for the images of a step, at least 1."""
        return max(1, min(self._accumulation * self._factor, num_images))

    def divide(self, num_images: int, can_recompute: bool = True) -> bool:
        """Divides steps more finely, down to single images, then recomputes activations.

        Args:
            num_images: Number of images of the step that memory did not suffice for.
            can_recompute: Whether the model can recompute activations that it keeps.

        Returns:
            Whether that was possible.
        """
        if self.num_parts(num_images) < num_images:
            self._factor *= 2
        elif can_recompute and not self.recomputes:
            self.recomputes = True
        else:
            return False
        self._steps_to_wait = self._patience
        self._patience = min(2 * self._patience, _LAST_PATIENCE)
        return True

    def count_step(self) -> bool:
        """Counts a step for which memory sufficed.

        Returns:
            Whether steps are divided less finely from the next one on.
        """
        if self._factor == 1 and not self.recomputes:
            return False
        self._steps_to_wait -= 1
        if self._steps_to_wait > 0:
            return False
        if self.recomputes:
            self.recomputes = False
        else:
            self._factor //= 2
        self._steps_to_wait = self._patience
        return True


class Recomputation:
    """Lets all modules of a model that can do so recompute their activations.

    Args:
        model: The model; modules that can have an attribute ``with_cp``, as in mmdet.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [m for m in model.modules() if getattr(m, 'with_cp', None) is False]

    def __bool__(self) -> bool:
        return bool(self._modules)

    def switch(self, on: bool) -> None:
        """Switches recomputation on, or back to what the config says."""
        for module in self._modules:
            module.with_cp = on


def split_batch(data_batch: dict, num_parts: int) -> list[dict]:
    """Divides the images of a step into micro-batches.

    Args:
        data_batch: What the dataloader gave.
        num_parts: Number of micro-batches; there are fewer if there are too few images.

    Returns:
        The micro-batches, in order; the last one may have fewer images.

    Raises:
        InputError: If the batch is not a dict of lists.
    """
    if num_parts == 1:
        return [data_batch]
    if not can_be_divided(data_batch):
        raise InputError(
            'gradient accumulation needs batches with inputs and data_samples, as PackDetInputs '
            'and pseudo_collate make them; use both, or set optim_wrapper.accumulative_counts=1'
        )
    num_images = len(data_batch['data_samples'])
    size = -(-num_images // num_parts)
    return [
        {key: values[start : start + size] for key, values in data_batch.items()}
        for start in range(0, num_images, size)
    ]


def can_be_divided(data_batch: dict) -> bool:
    """Returns whether a batch is a dict of lists with one entry for each image."""
    return isinstance(data_batch, dict) and isinstance(data_batch.get('data_samples'), Sequence)
