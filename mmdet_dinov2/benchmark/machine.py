"""The machine and the software of a measurement."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import psutil
import torch

_PACKAGES = (
    'torch',
    'onedl-mmengine',
    'onedl-mmcv',
    'onedl-mmdetection',
    'onedl-mmpretrain',
    'timm',
    'transformers',
    'triton',
    'onnxruntime',
    'openvino',
)
# Dense FLOP/s as the manufacturer states them, by part of the name of the card: fp32 without TF32
# (torch's default for matrix products), bf16 on tensor cores.
_PEAK_FLOPS = {
    'H200': {'fp32': 67e12, 'bf16': 989e12},
    'H100 PCIe': {'fp32': 51e12, 'bf16': 756e12},
    'H100': {'fp32': 67e12, 'bf16': 989e12},
    'A100': {'fp32': 19.5e12, 'bf16': 312e12},
    'L40S': {'fp32': 91.6e12, 'bf16': 362e12},
    'L4': {'fp32': 30.3e12, 'bf16': 121e12},
    'A10': {'fp32': 31.2e12, 'bf16': 125e12},
    'RTX 4090': {'fp32': 82.6e12, 'bf16': 165e12},
    'RTX 3090': {'fp32': 35.6e12, 'bf16': 71e12},
}


def describe_machine(device: torch.device | str) -> dict:
    """Describes hardware, versions and date, ready for JSON.

    Args:
        device: Device of the measurement.

    Returns:
        ``cpu``, usable ``cores``, ``threads`` of torch, ``memory_gib``, ``gpu`` (None on a CPU),
        ``load`` (mean number of running processes in the last minute before the start; figures
        measured at a load far above 0 mean little), ``python``, ``packages``, ``commit`` of the
        project (None outside a git checkout) and ``date``.
    """
    usable = getattr(os, 'sched_getaffinity', None)
    gpu = None
    if torch.device(device).type == 'cuda':
        properties = torch.cuda.get_device_properties(device)
        gpu = f'{properties.name}, {properties.total_memory / 2**30:.0f} GiB'
    return dict(
        cpu=_cpu_name(),
        cores=len(usable(0)) if usable else os.cpu_count(),
        threads=torch.get_num_threads(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        gpu=gpu,
        load=round(psutil.getloadavg()[0], 2),
        python=platform.python_version(),
        packages={name: version for name in _PACKAGES if (version := _version(name))},
        commit=_commit(),
        date=datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
    )


def one_line(machine: dict) -> str:
    """Returns the description of a machine in one line of text."""
    packages = ', '.join(f'{name} {version}' for name, version in machine['packages'].items())
    parts = [
        machine['gpu'],
        f'{machine["cpu"]}, {machine["cores"]} cores, {machine["threads"]} threads',
        f'load {machine["load"]} before the start',
        f'Python {machine["python"]}, {packages}',
        machine['commit'] and f'commit {machine["commit"]}',
        machine['date'],
    ]
    return '; '.join(part for part in parts if part)


def peak_flops(device_name: str, precision: str) -> float | None:
    """Returns the peak FLOP/s of a card as its manufacturer states it; None if unknown."""
    for name, peaks in _PEAK_FLOPS.items():
        if name in device_name:
            return peaks.get(precision)
    return None


def _cpu_name() -> str:
    info = Path('/proc/cpuinfo')
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    try:
        described = subprocess.run(
            ['git', 'describe', '--always', '--dirty', '--exclude=*'],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() or None
