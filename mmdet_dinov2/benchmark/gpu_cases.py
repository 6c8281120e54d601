"""Checks and measurements that say most on a GPU; arguments and results are JSON."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmdet.models.detectors import DINO
from torch import Tensor

from ..engine.training import train
from ..engine.training_step import TrainingStep
from ..layers import deformable_attention
from ..layers.out_of_memory import release_memory
from ..models.deformable_attention import choose_implementation
from .detectors import DetectorSpec, build_detector, build_optimizer
from .gaps import find_gaps, profile_kernels
from .redo_cases import runner_for_steps
from .timing import measure
from .workloads import Size, random_batch

_ROOT = Path(__file__).resolve().parents[2]
_NUM_GAPS = 3
# Bytes that are copied to measure the bandwidth of the memory.
_COPY_BYTES = {'cuda': 2**30, 'cpu': 2**24}


def device_tests(seconds: float, files: Sequence[str] = ('tests',)) -> dict:
    """Runs the tests that are marked `gpu`.

    Args:
        seconds: How long they may take.
        files: Files and folders with tests, in the checkout.

    Returns:
        ``summary``, the last line of pytest; ``failed``, whether it reported an error.
    """
    # Quiet by the project's own settings; quieter, pytest leaves its summary out.
    command = [sys.executable, '-m', 'pytest', '-m', 'gpu', '-p', 'no:cacheprovider', *files]
    try:
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return dict(summary=f'took longer than {seconds:.0f} s', failed=True)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    named = [line for line in lines if line.startswith(('FAILED', 'ERROR'))]
    return dict(
        summary='; '.join([lines[-1] if lines else done.stderr[-300:], *named]),
        # 5: all tests are left out, as without a GPU.
        failed=done.returncode not in (0, 5),
    )


def trained_ap(config: str, options: Mapping[str, Any], amp: bool) -> dict:
    """Trains a config in a temporary folder.

    Args:
        config: Config file.
        options: Settings that override it.
        amp: Whether to train in bf16.

    Returns:
        ``ap`` of the last evaluation, 0 to 1, and ``seconds`` of everything.
    """
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        paths = {'sample_data.root': f'{folder}/data/'}
        for split in ('train', 'val', 'test'):
            paths[f'{split}_dataloader.dataset.data_root'] = f'{folder}/data/'
        run = train(config, work_dir=f'{folder}/run', options={**paths, **options}, amp=amp)
    scores = [score for name, score in run.scores.items() if name.endswith('bbox_mAP')]
    return dict(ap=scores[-1], seconds=time.perf_counter() - begin)


def step_without_memory(spec: dict, sizes: Sequence[Size], seed: int) -> dict:
    """Does a step for which memory suffices, and again where it suffices for half of the images.

    On a GPU, what the process may allocate is limited. On a CPU an error takes the place of it.

    Args:
        spec: Attributes of a ``DetectorSpec``.
        sizes: Sizes of the images of the step.
        seed: Seed of images and boxes.

    Returns:
        ``difference``: the largest one of the losses of both steps, relative to the losses;
        ``parts``: the number of micro-batches of the second step.
    """
    detector = DetectorSpec(**spec)
    losses: list[dict[str, float]] = []
    enough_for_some = 0.0
    for limited in (False, True):
        release_memory()
        runner = runner_for_steps(detector, len(sizes))
        batch = random_batch(sizes, runner.model.bbox_head.num_classes, seed)
        if limited:
            _limit_memory(runner.model, detector.device, enough_for_some)
        elif detector.device == 'cuda':
            torch.cuda.reset_peak_memory_stats()
        parts = TrainingStep(runner)(batch)
        if not limited:
            enough_for_some = _limit(detector.device, len(sizes))
        mean = {
            name: torch.stack([part[name].detach() for part in parts]).mean() for name in parts[0]
        }
        losses.append({name: float(loss) for name, loss in mean.items()})
        del runner, batch
    if detector.device == 'cuda':
        torch.cuda.set_per_process_memory_fraction(1.0)
    whole, divided = losses
    differences = [abs(divided[n] - loss) / max(abs(loss), 1e-6) for n, loss in whole.items()]
    return dict(difference=max(differences), parts=len(parts))


def _limit(device: str, num_images: int) -> float:
    """Returns the share of the memory, or the number of images, that does not suffice for all."""
    if device != 'cuda':
        return num_images - 1
    total = torch.cuda.get_device_properties(0).total_memory
    return 0.8 * torch.cuda.max_memory_reserved() / total


def _limit_memory(model: DINO, device: str, largest: float) -> None:
    if device == 'cuda':
        torch.cuda.set_per_process_memory_fraction(largest)
        return

    def refuse(module, args: tuple) -> None:
        if len(args[0]) > largest:
            raise torch.OutOfMemoryError('planted')

    model.backbone.register_forward_pre_hook(refuse)


def deformable_bandwidth(device: str, grids: Sequence[Size], dtype: str, seed: int) -> dict:
    """Times deformable attention among the cells of two images, and what its memory allows.

    No implementation can be faster than the device reads all inputs and writes all results once,
    at the speed at which it copies.

    Args:
        device: The device.
        grids: Rows and columns of the levels.
        dtype: Name of the dtype of the values.
        seed: Seed of the inputs.

    Returns:
        ``implementation``; seconds of ``forward`` and ``backward``, and of their bounds,
        ``forward_bound`` and ``backward_bound``.
    """
    torch.manual_seed(seed)
    heads, head_dim, points, images = 8, 32, 4, 2
    cells = sum(rows * cols for rows, cols in grids)
    value = torch.randn(images * cells, heads, head_dim, device=device, dtype=getattr(torch, dtype))
    shapes = torch.tensor([list(grids)] * images, device=device)
    owners = torch.arange(images, device=device).repeat_interleave(cells)
    locations = torch.rand(len(value), heads, len(grids), points, 2, device=device)
    weights = torch.rand(locations.shape[:-1], device=device)
    leaves = [t.requires_grad_() for t in (value, locations, weights)]
    chosen = choose_implementation(value.device, value.dtype).name
    if chosen == 'mmcv':
        chosen = 'pytorch'

    def forward() -> Tensor:
        return deformable_attention(value, shapes, locations, weights, chosen, owners)

    output = forward()
    grad = torch.ones_like(output)
    backward = partial(torch.autograd.grad, output, leaves, grad, retain_graph=True)
    source = torch.empty(_COPY_BYTES[torch.device(device).type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copying = _fastest(partial(target.copy_, source), device) / (2 * len(source))
    read, written = sum(t.nbytes for t in leaves), output.nbytes
    return dict(
        implementation=chosen,
        forward=_fastest(forward, device),
        backward=_fastest(backward, device),
        forward_bound=copying * (read + written),
        # It reads the inputs and the gradient of the result, and writes gradients of the inputs.
        backward_bound=copying * (2 * read + grad.nbytes),
    )


def _fastest(function, device: str, rounds: int = 10) -> float:
    function()
    return min(measure(function, device) for _ in range(rounds))


def longest_gaps(spec: dict, sizes: Sequence[Size], seed: int) -> dict:
    """Profiles a training step after two others.

    Args:
        spec: Attributes of a ``DetectorSpec``.
        sizes: Sizes of the images of the step.
        seed: Seed of images and boxes.

    Returns:
        ``kernels``, their number; ``busy``, the share of the time in which one ran; ``gaps``, the
        longest times without one, with the kernels around them.
    """
    detector = DetectorSpec(**spec)
    model = build_detector(detector)
    optim_wrapper = build_optimizer(model, detector)
    batch = random_batch(sizes, model.bbox_head.num_classes, seed)
    step = partial(model.train_step, batch, optim_wrapper=optim_wrapper)
    for _ in range(2):
        step()
    spans = profile_kernels(step, detector.device)
    gaps, busy = find_gaps(spans)
    return dict(kernels=len(spans), busy=busy, gaps=[asdict(gap) for gap in gaps[:_NUM_GAPS]])
