"""Training steps with and without what exhausted memory needs; arguments and results are JSON."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel

from ..engine.training_step import TrainingStep
from .detectors import DetectorSpec, build_detector, build_optimizer
from .timing import measure_in_turns
from .workloads import Size, random_batch


def step_times(spec: dict, sizes: Sequence[Size], seed: int, repeats: int) -> dict:
    """Times steps of the training loop and plain steps of mmengine, in turns.

    Args:
        spec: Attributes of a ``DetectorSpec``.
        sizes: Sizes of the images of a step.
        seed: Seed of images and boxes.
        repeats: Number of rounds.

    Returns:
        ``redo`` and ``plain``: the seconds of each step.
    """
    detector = DetectorSpec(**spec)
    plain = build_detector(detector)
    optim_wrapper = build_optimizer(plain, detector)
    batch = random_batch(sizes, plain.bbox_head.num_classes, seed)
    cases = dict(
        redo=partial(TrainingStep(runner_for_steps(detector, len(sizes))), batch),
        plain=lambda: plain.train_step(batch, optim_wrapper=optim_wrapper),
    )
    return measure_in_turns(cases, repeats, detector.device)


def exchange_times(
    spec: dict, sizes: Sequence[Size], seed: int, repeats: int, processes: int = 2
) -> dict:
    """Times steps on several processes of this machine, with two ways to average gradients.

    Args:
        spec: Attributes of a ``DetectorSpec`` on the CPU.
        sizes: Sizes of the images of a step of one process.
        seed: Seed of images and boxes.
        repeats: Number of rounds.
        processes: Number of processes.

    Returns:
        ``after``: the seconds of steps that average once all processes have their gradients;
        ``overlapped``: of those that average during the backward pass.
    """
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        arguments = (processes, port, folder, spec, sizes, seed, repeats)
        mp.spawn(_exchange, arguments, nprocs=processes)
        times = [torch.load(path) for path in Path(folder).iterdir()]
    # A step ends when all processes have ended it.
    return {name: [max(of) for of in zip(*(t[name] for t in times))] for name in times[0]}


def _exchange(
    rank: int, processes: int, port: int, folder: str, spec: dict, sizes, seed: int, repeats: int
) -> None:
    os.environ.update(
        MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), RANK=str(rank),
        WORLD_SIZE=str(processes), LOCAL_RANK=str(rank),
    )  # fmt: skip
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    dist.init_process_group('gloo')
    detector = DetectorSpec(**spec)
    batch = random_batch(sizes, build_detector(detector).bbox_head.num_classes, seed + rank)
    cases = {
        name: partial(_together, TrainingStep(runner_for_steps(detector, len(sizes)), redo), batch)
        for name, redo in (('after', True), ('overlapped', False))
    }
    times = measure_in_turns(cases, repeats)
    torch.save(times, f'{folder}/{rank}')
    dist.destroy_process_group()


def _together(step: Callable[[dict], object], batch: dict) -> None:
    dist.barrier()
    step(batch)


def runner_for_steps(detector: DetectorSpec, num_images: int) -> SimpleNamespace:
    """Returns what a ``TrainingStep`` needs of a runner.

    Args:
        detector: The detector.
        num_images: Number of images of a step in this process.
    """
    model = build_detector(detector)
    wrapped = model
    if dist.is_initialized():
        wrapped = MMDistributedDataParallel(module=model, broadcast_buffers=False)
    sampler = SimpleNamespace(batch_size=num_images)
    return SimpleNamespace(
        model=wrapped,
        optim_wrapper=build_optimizer(model, detector, guarded=True),
        accumulative_counts=1,
        iter=0,
        seed=detector.seed,
        logger=MMLogger.get_current_instance(),
        train_dataloader=SimpleNamespace(batch_sampler=sampler),
    )
