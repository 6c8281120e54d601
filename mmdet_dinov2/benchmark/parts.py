"""Time of the parts of a training step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mmdet.models.detectors import DINO
from mmengine.optim import OptimWrapper

from .timing import synchronize

PARTS = ('data', 'backbone', 'neck', 'encoder', 'decoder', 'matching+loss', 'backward', 'optimizer')
# Methods of mmdet's detection transformers and the parts they belong to.
_METHODS = {
    'pre_transformer': 'encoder',
    'forward_encoder': 'encoder',
    'pre_decoder': 'decoder',
    'forward_decoder': 'decoder',
}


class PartTimer:
    """Adds up the time spent in named parts.

    It waits for the device at both ends of a part, so the sum of the parts may exceed the time of a
    step that is not observed.

    Args:
        device: Device of the work.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = device
        self.seconds = dict.fromkeys(PARTS, 0.0)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times the body as the part of this name."""
        synchronize(self.device)
        begin = time.perf_counter()
        try:
            yield
        finally:
            synchronize(self.device)
            self.seconds[name] += time.perf_counter() - begin

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the function, timed as the part of this name."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return call

    @contextlib.contextmanager
    def watch(self, model: DINO) -> Iterator[None]:
        """Times the parts of a detector's forward pass while the body runs."""
        places = [(model.backbone, 'forward', 'backbone'), (model.neck, 'forward', 'neck')]
        places += [(model, method, name) for method, name in _METHODS.items()]
        places += [(model.bbox_head, 'loss', 'matching+loss')]
        # An attribute of an object hides the method of its class. Forward hooks would not do: most
        # of these methods are not the forward() of a module.
        for owner, method, name in places:
            setattr(owner, method, self.timed(name, getattr(owner, method)))
        try:
            yield
        finally:
            for owner, method, _ in places:
                delattr(owner, method)


def timed_step(
    model: DINO,
    optim_wrapper: OptimWrapper,
    make_batch: Callable[[], dict],
    device: torch.device | str,
) -> dict[str, float]:
    """Runs one training step and times its parts.

    Args:
        model: A detector of mmdet or of this project, in training mode.
        optim_wrapper: The optimizer of the detector.
        make_batch: Returns the batch; its time counts as data time.
        device: Device of the model.

    Returns:
        Seconds of each of ``PARTS``. The encoder includes the flattening of the pyramid; the
        decoder includes the choice of its queries and the denoising queries.
    """
    timer = PartTimer(device)
    with timer.part('data'):
        data = model.data_preprocessor(make_batch(), training=True)
    with timer.watch(model), optim_wrapper.optim_context(model):
        losses = model(**data, mode='loss')
    with timer.part('matching+loss'):
        loss, _ = model.parse_losses(losses)
        loss = optim_wrapper.scale_loss(loss)
    with timer.part('backward'):
        optim_wrapper.backward(loss)
    with timer.part('optimizer'):
        optim_wrapper.step()
        optim_wrapper.zero_grad()
    return timer.seconds
