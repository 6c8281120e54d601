"""The parts of a training step, and the time that each of them takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from mmdet.models.detectors import DINO
from mmengine.optim import OptimWrapper

from .timing import synchronize

PARTS = (
    'data', 'backbone', 'neck', 'encoder', 'query selection', 'decoder', 'matching+loss',
    'backward', 'optimizer',
)  # fmt: skip
# Methods of mmdet's detection transformers and the parts they belong to.
_METHODS = {
    'pre_transformer': 'encoder',
    'forward_encoder': 'encoder',
    'pre_decoder': 'query selection',
    'forward_decoder': 'decoder',
}
# Enters a part of a step, given its name.
Enter = Callable[[str], AbstractContextManager]


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


def run_step(
    model: DINO, optim_wrapper: OptimWrapper, make_batch: Callable[[], dict], part: Enter
) -> None:
    """Runs one training step, each of its parts within a context.

    The encoder includes the flattening of the pyramid; query selection includes the denoising
    queries.

    Args:
        model: A detector of mmdet or of this project, in training mode.
        optim_wrapper: The optimizer of the detector.
        make_batch: Returns the batch; it belongs to the data.
        part: Returns the context of one of ``PARTS``.
    """
    with part('data'):
        data = model.data_preprocessor(make_batch(), training=True)
    with _within_parts(model, part), optim_wrapper.optim_context(model):
        losses = model(**data, mode='loss')
    with part('matching+loss'):
        loss, _ = model.parse_losses(losses)
        loss = optim_wrapper.scale_loss(loss)
    with part('backward'):
        optim_wrapper.backward(loss)
    with part('optimizer'):
        optim_wrapper.step()
        optim_wrapper.zero_grad()


def timed_step(
    model: DINO,
    optim_wrapper: OptimWrapper,
    make_batch: Callable[[], dict],
    device: torch.device | str,
) -> dict[str, float]:
    """Runs one training step and times its parts; see :func:`run_step`.

    Args:
        model: A detector of mmdet or of this project, in training mode.
        optim_wrapper: The optimizer of the detector.
        make_batch: Returns the batch.
        device: Device of the model.

    Returns:
        Seconds of each of ``PARTS``.
    """
    timer = PartTimer(device)
    run_step(model, optim_wrapper, make_batch, timer.part)
    return timer.seconds


@contextlib.contextmanager
def _within_parts(model: DINO, part: Enter) -> Iterator[None]:
    """Runs the parts of a detector's forward pass within their contexts while the body runs."""
    places = [(model.backbone, 'forward', 'backbone'), (model.neck, 'forward', 'neck')]
    places += [(model, method, name) for method, name in _METHODS.items()]
    places += [(model.bbox_head, 'loss', 'matching+loss')]

    def wrapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with part(name):
                return function(*args, **kwargs)

        return call

    # An attribute of an object hides the method of its class. Forward hooks would not do: most
    # of these methods are not the forward() of a module.
    for owner, method, name in places:
        setattr(owner, method, wrapped(name, getattr(owner, method)))
    try:
        yield
    finally:
        for owner, method, _ in places:
            delattr(owner, method)
