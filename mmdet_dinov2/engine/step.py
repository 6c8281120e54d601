"""What the processes of a training exchange in a step, with each other and with hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor


@dataclass
class StepState:
    """The last step of a training loop, for hooks; hooks find it as ``runner.train_loop.step``.

    Attributes:
        stop_requested: Whether this process was asked to stop; set by a hook at any time.
        stop_agreed: Whether a process was asked to stop; the same in all processes.
        counters: Functions by name that return what this process has counted since the last call;
            set by hooks before the training, under the same names in all processes.
        sums: Sums of these counts over the processes.
        num_bad_images: Number of images that could not be read, over the processes.
        losses: Losses of each micro-batch of this process, by name.
    """

    stop_requested: bool = False
    stop_agreed: bool = False
    counters: dict[str, Callable[[], int]] = field(default_factory=dict)
    sums: dict[str, int] = field(default_factory=dict)
    num_bad_images: int = 0
    losses: Sequence[dict[str, Tensor]] = ()

    def share(self, losses: Sequence[dict[str, Tensor]], num_bad_images: int) -> dict[str, float]:
        """Exchanges a step with the other processes, in one transfer to the host.

        All processes have to call it after each step.

        Args:
            losses: Losses of each micro-batch of this process, by name.
            num_bad_images: Number of images of this process that could not be read.

        Returns:
            Means of the losses over micro-batches and processes.
        """
        counts = [self.stop_requested, num_bad_images]
        counts += [count() for count in self.counters.values()]
        names = list(losses[0])
        means = torch.stack(
            [torch.stack([terms[name].detach() for name in names]).float() for terms in losses]
        ).mean(0)
        means = torch.cat((means, means.new_tensor([float(count) for count in counts])))
        all_reduce(means, 'mean')
        values = means.tolist()
        stops, bad, *sums = [round(value * get_world_size()) for value in values[len(names) :]]
        self.stop_agreed = stops > 0
        self.num_bad_images = bad
        self.sums = dict(zip(self.counters, sums, strict=True))
        self.losses = losses
        return dict(zip(names, values[: len(names)], strict=True))
