"""Measurements of detectors for processes of their own: arguments and results are JSON."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from mmdet.models.detectors import DINO
from mmengine.runner import Runner

# Private, torch 2.10: there is no public way to leave a mode for a while.
from torch.utils._python_dispatch import _disable_current_modes

from ..data.shapes_dataset import make_sample_data
from ..engine.reproducible import reproducible_algorithms
from ..layers.compiling import TokenwiseModule, compiled_by
from ..peak_memory import PeakMemory
from .compiled_kernels import KernelCountingBackend
from .detectors import DetectorSpec, autocast, build_detector, build_optimizer, read_detector_config
from .flops import count_flops
from .operators import OTHER, OperatorCounter, sums
from .parts import PARTS, run_step, timed_step
from .timing import measure, measure_in_turns
from .waits import WaitCounter
from .workloads import Size, random_batch

Batches = Sequence[Sequence[Size]]
# Smallest and largest number of boxes of an image.
BOXES = (1, 15)


def training_memory(
    spec: dict,
    batches: Batches,
    seed: int,
    repeats: int = 0,
    boxes: Sequence[int] = BOXES,
) -> dict:
    """Measures the peak memory of training steps.

    It includes weights, gradients, optimizer states and activations.

    Args:
        spec: Attributes of a ``DetectorSpec``.
        batches: Sizes of the images of each step.
        seed: Seed of images and boxes.
        repeats: Number of timed passes over the batches; an untimed pass comes first.
        boxes: Smallest and largest number of boxes of an image.

    Returns:
        ``mib``, and ``seconds`` of a step: the mean of each timed pass.
    """
    detector = DetectorSpec(**spec)
    memory = PeakMemory(detector.device)
    train = _passes(detector, batches, seed, boxes)
    train()
    passes = [measure(train, detector.device) / len(batches) for _ in range(repeats)]
    return dict(mib=memory.mib(), seconds=passes)


def training_times(
    specs: Sequence[dict],
    batches: Batches,
    seed: int,
    repeats: int,
    warmup: int = 1,
    boxes: Sequence[int] = BOXES,
) -> dict:
    """Times training steps of several detectors, in turns, on the same batches.

    Args:
        specs: Attributes of each ``DetectorSpec``, all on one device.
        batches: Sizes of the images of each step.
        seed: Seed of images and boxes.
        repeats: Number of passes over the batches.
        warmup: Number of untimed passes before them.
        boxes: Smallest and largest number of boxes of an image.

    Returns:
        ``seconds`` of a step: for each detector the mean of each pass.
    """
    detectors = [DetectorSpec(**spec) for spec in specs]
    cases = {
        str(i): _passes(detector, batches, seed, boxes) for i, detector in enumerate(detectors)
    }
    times = measure_in_turns(cases, repeats, detectors[0].device, warmup)
    return dict(seconds=[[t / len(batches) for t in times[name]] for name in cases])


def prediction_times(specs: Sequence[dict], batches: Batches, seed: int, repeats: int) -> dict:
    """Times predictions of several detectors, in turns, on the same batches.

    Args:
        specs: Attributes of each ``DetectorSpec``, all on one device.
        batches: Sizes of the images of each batch.
        seed: Seed of the images.
        repeats: Number of passes over the batches; an untimed pass comes first.

    Returns:
        ``seconds`` of a batch: for each detector the mean of each pass.
    """
    cases: dict[str, Callable[[], None]] = {}
    for index, spec in enumerate(specs):
        detector = DetectorSpec(**spec)
        model = build_detector(detector).eval()
        cases[str(index)] = partial(
            _predict, model, detector, [make() for make in _makers(model, batches, seed)]
        )
    times = measure_in_turns(cases, repeats, detector.device)
    return dict(seconds=[[t / len(batches) for t in times[name]] for name in cases])


@torch.no_grad()
def _predict(model: DINO, detector: DetectorSpec, batches: Sequence[dict]) -> None:
    with autocast(detector):
        for batch in batches:
            model.test_step(batch)


def training_times_beside(busy: int, **work) -> dict:
    """Times training steps while other processes keep cores busy.

    Args:
        busy: Number of busy processes.
        **work: As for :func:`training_times`.

    Returns:
        As :func:`training_times`.
    """
    others = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(busy)]
    try:
        return training_times(**work)
    finally:
        for process in others:
            process.kill()


def training_cost(
    spec: dict, batches: Batches, seed: int, repeats: int, from_config: bool = False
) -> dict:
    """Measures what a training step costs: time, time of its parts, memory.

    Args:
        spec: Attributes of a ``DetectorSpec``.
        batches: Sizes of the images of each step.
        seed: Seed of images and boxes.
        repeats: Number of timed passes over the batches; an untimed pass comes first.
        from_config: Whether to load the batches from the training data of the config, in this
            process; ``batches`` then only gives their number and the number of their images.

    Returns:
        ``seconds`` of a step, the mean of each pass; ``parts``, the same for each part; ``mib``;
        numbers of ``trained`` and ``frozen`` parameters.
    """
    detector = DetectorSpec(**spec)
    memory = PeakMemory(detector.device)
    model = build_detector(detector)
    optim_wrapper = build_optimizer(model, detector)
    make_batches = _loaders(detector, batches) if from_config else _makers(model, batches, seed)
    passes = []
    for number in range(repeats + 1):
        steps = [timed_step(model, optim_wrapper, make, detector.device) for make in make_batches]
        if number:
            passes.append({part: sum(step[part] for step in steps) / len(steps) for part in PARTS})
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return dict(
        seconds=[sum(parts.values()) for parts in passes],
        parts={part: [parts[part] for parts in passes] for part in PARTS},
        mib=memory.mib(),
        trained=trained,
        frozen=sum(p.numel() for p in model.parameters()) - trained,
    )


def training_operators(spec: dict, sizes: Sequence[Size], seed: int) -> dict:
    """Counts the operators of a training step, and how often the host waits for the device.

    The operators are those of the second step: the first one makes the states of the optimizer, and
    compiles. What is compiled counts as :func:`.compiled_kernels.count_kernels` says. Waits
    are counted on a CPU, without compilation (:mod:`.waits`).

    Args:
        spec: Attributes of a ``DetectorSpec``.
        sizes: Sizes of the images of the step.
        seed: Seed of images and boxes.

    Returns:
        ``operators`` and ``waits`` of each of ``PARTS`` and of what lies between them, 'other';
        ``names``, the number of calls of each operator; ``waiting``, part and function of each
        wait.
    """
    detector = DetectorSpec(**spec)
    model = build_detector(detector)
    optim_wrapper = build_optimizer(model, detector)
    (make,) = _makers(model, [sizes], seed)
    backend, operators = KernelCountingBackend(), OperatorCounter()
    # Code that is compiled runs as it is under a mode that sees each operator.
    with compiled_by(backend, around=_disable_current_modes):
        run_step(model, optim_wrapper, make, lambda part: contextlib.nullcontext())
        backend.counter = operators
        with operators:
            run_step(model, optim_wrapper, make, operators.part)
    for module in model.modules():
        if isinstance(module, TokenwiseModule):
            module.compiled = False
    waits = WaitCounter((*model.parameters(), *model.buffers()))
    with waits.watch():
        run_step(model, optim_wrapper, make, waits.part)
    by_part = sums(operators.counts, 0), sums(waits.counts, 0)
    return dict(
        operators={part: by_part[0][part] for part in (*PARTS, OTHER)},
        waits={part: by_part[1][part] for part in (*PARTS, OTHER)},
        names=dict(sums(operators.counts, 1).most_common()),
        waiting=[f'{part}: {name}' for part, name in waits.counts.elements()],
    )


def inference_cost(spec: dict, batches: Batches, seed: int, repeats: int) -> dict:
    """Measures what predictions cost.

    Args:
        spec: Attributes of a ``DetectorSpec``.
        batches: Sizes of the images of each batch.
        seed: Seed of the images.
        repeats: Number of timed passes over the batches; an untimed pass comes first.

    Returns:
        ``latency``, the seconds for the first image of the first batch alone, in each pass;
        ``seconds`` of a batch, the mean of each pass; ``flops`` and ``deformable_flops`` of the
        forward pass of the first batch; ``forward``, the seconds of that forward pass; ``mib``.
    """
    detector = DetectorSpec(**spec)
    memory = PeakMemory(detector.device)
    # torch's counter fails under no_grad if parameters require gradients.
    model = build_detector(detector).eval().requires_grad_(False)
    made = [make() for make in _makers(model, batches, seed)]
    first = {key: values[:1] for key, values in made[0].items()}

    @torch.no_grad()
    def predict(batch: dict) -> None:
        with autocast(detector):
            model.test_step(batch)

    data = model.data_preprocessor(made[0], training=False)

    @torch.no_grad()
    def forward() -> None:
        with autocast(detector):
            model(**data, mode='tensor')

    flops = count_flops(model, forward)
    cases: dict[str, Callable[[], object]] = dict(
        latency=lambda: predict(first),
        batch=lambda: [predict(batch) for batch in made],
        forward=forward,
    )
    times = measure_in_turns(cases, repeats, detector.device)
    return dict(
        latency=times['latency'],
        seconds=[t / len(made) for t in times['batch']],
        forward=times['forward'],
        flops=flops.total,
        deformable_flops=flops.deformable,
        mib=memory.mib(),
    )


def _passes(
    detector: DetectorSpec, batches: Batches, seed: int, boxes: Sequence[int] = BOXES
) -> Callable[[], None]:
    """Returns a function that trains one step on each of the batches."""
    model = build_detector(detector)
    optim_wrapper = build_optimizer(model, detector)
    made = [make() for make in _makers(model, batches, seed, boxes)]

    def train() -> None:
        with reproducible_algorithms() if detector.reproducible else contextlib.nullcontext():
            for batch in made:
                model.train_step(batch, optim_wrapper=optim_wrapper)

    return train


def _makers(
    model: DINO, batches: Batches, seed: int, boxes: Sequence[int] = BOXES
) -> list[Callable[[], dict]]:
    """Returns functions that each return a random batch, always the same one."""
    num_classes = model.bbox_head.num_classes
    made = [
        random_batch(sizes, num_classes, seed + i, tuple(boxes), model.with_mask)
        for i, sizes in enumerate(batches)
    ]
    return [partial(dict, batch) for batch in made]


def _loaders(detector: DetectorSpec, batches: Batches) -> list[Callable[[], dict]]:
    """Returns functions that each load a batch from the training data of the config."""
    config = read_detector_config(detector)
    make_sample_data(config)
    cfg = config.train_dataloader
    cfg.update(batch_size=len(batches[0]), num_workers=0, persistent_workers=False)
    loader = Runner.build_dataloader(cfg, seed=detector.seed)

    def endless() -> Iterator[dict]:
        while True:
            yield from loader

    stream = endless()
    return [lambda: next(stream)] * len(batches)
