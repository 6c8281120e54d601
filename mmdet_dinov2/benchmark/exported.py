"""Exported files beside the detector that they come from."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from mmdet.structures import DetDataSample
from torch import Tensor, nn

from ..errors import InputError
from ..export.exporting import proof_path
from ..inference import load
from ..inference.exported_detector import ExportedDetector
from ..layers import TokenwiseModule
from ..peak_memory import PeakMemory
from .isolated import CaseError
from .settings import Settings
from .tables import NOT_MEASURED, BenchmarkReport
from .timing import Spread, measure_in_turns, ratio
from .workloads import Size

COLUMNS = (
    'model', 'size', 'batch', 'threads', 'ms a batch', '/ eager', 'images/s', 'peak MiB',
    'file MiB', 'AP',
)  # fmt: skip
EAGER, COMPILED = 'PyTorch, eager', 'PyTorch, compiled'
_RUNTIMES = {'.onnx': ('onnxruntime', 'openvino'), '.xml': ('openvino',)}


def measure_exported(
    report: BenchmarkReport,
    settings: Settings,
    files: Sequence[str],
    checkpoint: str | None,
    sizes: Sequence[Size],
    batch_sizes: Sequence[int],
) -> None:
    """Measures exported files, and PyTorch beside them, on a CPU.

    Times are those of the model alone: from normalised images to boxes. All cases of a size, a
    batch size and a number of threads take turns in one process. Peak memory is that of a process
    which loads the model and runs it. AP is what the proof of the file says.

    Args:
        report: Receives one table.
        settings: How to measure.
        files: Exported files, each measured in all runtimes that are installed.
        checkpoint: The checkpoint that they come from; None measures the files alone.
        sizes: Heights and widths of the input.
        batch_sizes: Numbers of images.

    Raises:
        InputError: If a file cannot be used, or no runtime is installed.
    """
    table = report.table(
        'exported files',
        COLUMNS,
        [f'seed {settings.seed}; times: median and quartiles of rounds in which all take turns'],
    )
    for size in sizes:
        for batch_size in batch_sizes:
            images = _images(batch_size, size, settings.seed)
            for threads in dict.fromkeys((1, os.cpu_count() or 1)):
                rows, seconds = _measure(files, checkpoint, images, threads, settings.repeats or 9)
                for row in rows:
                    name = row['model']
                    row.update(size='{}x{}'.format(*size), batch=batch_size, threads=threads)
                    if name in seconds:
                        row['ms a batch'] = Spread.of([1000 * s for s in seconds[name]])
                        row['images/s'] = batch_size / Spread.of(seconds[name]).median
                    if name in seconds and EAGER in seconds:
                        row['/ eager'] = ratio(seconds[name], seconds[EAGER])
                    _add_memory(row, settings, batch_size, size, threads)
                    row.pop('case')
                    report.add(table, row)


def _measure(
    files: Sequence[str], checkpoint: str | None, images: Tensor, threads: int, repeats: int
) -> tuple[list[dict], dict[str, list[float]]]:
    """Returns the beginning of each row, and the seconds of the cases that run."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    rows: list[dict] = []
    cases: dict[str, Callable[[], object]] = {}
    try:
        if checkpoint is not None:
            eager = load(checkpoint, device='cpu', tile=False).model
            weights = sum(p.numel() * p.element_size() for p in eager.parameters()) / 2**20
            compiled = copy.deepcopy(eager)
            for module in compiled.modules():
                if isinstance(module, TokenwiseModule):
                    module.compiled = True
            for name, model in ((EAGER, eager), (COMPILED, compiled)):
                run = _runner(model, images)
                row = {'model': name, 'file MiB': weights, 'case': (checkpoint, None)}
                try:
                    run()
                    cases[name] = run
                except InputError as error:
                    row['ms a batch'] = f'{NOT_MEASURED}: {error}'
                rows.append(row)
        for file in files:
            for runtime in installed_runtimes(file):
                name = f'{Path(file).name}, {runtime}'
                model = ExportedDetector(file, threads, runtime)
                model.run(images.numpy())  # a size that the graph refuses ends the measurement
                cases[name] = _run_exported(model, images)
                rows.append(
                    {
                        'model': name,
                        'file MiB': _megabytes(file),
                        'AP': _proven_ap(file),
                        'case': (file, runtime),
                    }
                )
        return rows, measure_in_turns(cases, repeats, warmup=2)
    finally:
        torch.set_num_threads(before)


def installed_runtimes(file: str) -> list[str]:
    """Returns the runtimes that are installed and read a file.

    Raises:
        InputError: If there is none.
    """
    names = _RUNTIMES[Path(file).suffix]
    found = [name for name in names if importlib.util.find_spec(name)]
    if not found:
        raise InputError(f'{file} needs {" or ".join(names)}: pip install {names[0]}')
    return found


def peak_memory(
    path: str, runtime: str | None, batch_size: int, size: Size, seed: int, threads: int
) -> dict:
    """Measures the peak memory of loading a model and running it twice, in MiB.

    Args:
        path: Checkpoint or exported file.
        runtime: Runtime of an exported file; None for a checkpoint.
        batch_size: Number of images.
        size: Height and width of the input.
        seed: Seed of the images.
        threads: Threads that compute.
    """
    torch.set_num_threads(threads)
    images = _images(batch_size, tuple(size), seed)
    peak = PeakMemory('cpu')
    if runtime is None:
        run = _runner(load(path, device='cpu').model, images)
    else:
        run = _run_exported(ExportedDetector(path, threads, runtime), images)
    run()
    run()
    return dict(mib=peak.mib())


def _add_memory(row: dict, settings: Settings, batch_size: int, size: Size, threads: int) -> None:
    if row['model'] == COMPILED:
        return
    path, runtime = row['case']
    try:
        row['peak MiB'] = settings.run_case(
            peak_memory, settings.time_limit, path=str(path), runtime=runtime,
            batch_size=batch_size, size=size, seed=settings.seed, threads=threads,
        )['mib']  # fmt: skip
    except CaseError as error:
        row['peak MiB'] = f'{NOT_MEASURED}: {error}'


def _images(batch_size: int, size: Size, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch_size, 3, *size, generator=generator)


def _runner(model: nn.Module, images: Tensor) -> Callable[[], object]:
    shape = tuple(images.shape[2:])
    meta = dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0))

    @torch.no_grad()
    def run() -> None:
        model.predict(images, [DetDataSample(metainfo=meta) for _ in images])

    return run


def _run_exported(model: ExportedDetector, images: Tensor) -> Callable[[], object]:
    array = images.numpy()
    return lambda: model.run(array)


def _megabytes(file: str) -> float:
    path = Path(file)
    parts = [path, path.with_suffix('.bin') if path.suffix == '.xml' else Path(f'{path}.data')]
    return sum(part.stat().st_size for part in parts if part.is_file()) / 2**20


def _proven_ap(file: str) -> str | None:
    proof = proof_path(file)
    if not proof.is_file():
        return None
    try:
        ap = json.loads(proof.read_text(encoding='utf-8'))['proof']['ap']
    except (ValueError, KeyError, TypeError):
        return None
    return ap and f'{ap[1]:.4f} (PyTorch {ap[0]:.4f})'
