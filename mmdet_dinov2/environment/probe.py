"""Tries imports that may fail or crash in a different process, and asks it about devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .commands import install_all, reinstall_mmcv
from .explain import explain_import_error
from .problem import Problem

MODULES = (
    'numpy',
    'cv2',
    'torch',
    'torchvision',
    'pycocotools.mask',
    'scipy.optimize',
    'mmengine',
    'mmcv',
    'mmcv.ops',
    'mmpretrain.models',
    'mmdet.models',
)
_SECONDS = 300
# Prints a line before and after each import, which shows where it crashes.
_CODE = """
import importlib, json, sys, warnings
sys.path[:] = json.loads(sys.argv[1])
warnings.simplefilter('ignore')
out = sys.stdout
sys.stdout = sys.stderr
def tell(**row):
    print(json.dumps(row), file=out, flush=True)
for name in json.loads(sys.argv[2]):
    tell(module=name)
    try:
        importlib.import_module(name)
    except BaseException as error:
        tell(module=name, error=str(error), type=type(error).__name__,
             name=getattr(error, 'name', None))
    else:
        tell(module=name, error=None)
facts = {}
torch = sys.modules.get('torch')
if hasattr(torch, 'cuda'):
    facts['torch_cuda'] = torch.version.cuda
    facts['gpus'] = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            facts['gpus'].append(dict(
                name=about.name, memory=about.total_memory, bf16=about.major >= 8))
if 'mmcv.ops' in sys.modules:
    try:
        facts['mmcv_cuda'] = sys.modules['mmcv.ops'].get_compiling_cuda_version()
        facts['mmcv_stand_in'] = getattr(sys.modules.get('mmcv._ext'), 'is_stand_in', False)
    except Exception:
        pass
try:
    importlib.import_module('triton')
    facts['triton'] = True
except BaseException:
    facts['triton'] = False
try:
    attention = importlib.import_module('mmdet_dinov2.models.deformable_attention')
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    choice = attention.choose_implementation(device)
    facts['attention'] = f'{choice.name} ({choice.reason})'
except BaseException:
    pass  # the imports above say why
tell(facts=facts)
"""


def probe(modules: tuple[str, ...] = MODULES) -> tuple[dict[str, dict | None], dict]:
    """Imports modules in a different process.

    Args:
        modules: Names of the modules, in the order of import.

    Returns:
        The error of each module that was tried, by name: ``None``, or a dict with type, text and
        name of the missing module; and facts about devices, empty if the process crashed.
    """
    arguments = ['-S'] if sys.flags.no_site else []
    # Warnings and messages of the packages go to standard error, which is discarded.
    with subprocess.Popen(
        [sys.executable, *arguments, '-c', _CODE, json.dumps(sys.path), json.dumps(modules)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ, NO_ALBUMENTATIONS_UPDATE='1'),
        text=True,
    ) as process:
        try:
            lines, _ = process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            lines, _ = process.communicate()
    results: dict[str, dict | None] = {}
    facts: dict = {}
    for line in lines.splitlines():
        row = json.loads(line)
        if 'facts' in row:
            facts = row['facts']
        elif 'error' not in row:
            end = f'signal {-process.returncode}' if process.returncode < 0 else 'exit'
            results[row['module']] = dict(type='', name=None, text=f'the import ended with {end}')
        else:
            failed = row['error'] is not None
            results[row['module']] = (
                dict(type=row['type'], name=row['name'], text=row['error']) if failed else None
            )
    return results, facts


def check_imports(results: dict[str, dict | None], facts: dict) -> Iterator[Problem]:
    """Turns the result of :func:`probe` into problems, one for each cause.

    Args:
        results: Errors by module.
        facts: Facts about devices.
    """
    reported = set()
    for module, error in results.items():
        if error is None:
            continue
        kind = ModuleNotFoundError if error['type'] == 'ModuleNotFoundError' else ImportError
        what, _, remedy = explain_import_error(kind(error['text'], name=error['name'])).partition(
            '; run: '
        )
        if what not in reported:
            reported.add(what)
            yield Problem('error', f'`import {module}`: {what}', remedy)
    if facts:
        yield from _check_devices(facts)


def _check_devices(facts: dict) -> Iterator[Problem]:
    gpus = facts.get('gpus', [])
    for index, gpu in enumerate(gpus):
        precision = 'fp32, fp16, bf16 (--amp)' if gpu['bf16'] else 'fp32, fp16'
        yield Problem(
            'info', f'GPU {index}: {gpu["name"]}, {gpu["memory"] / 2**30:.0f} GiB, {precision}'
        )
        if not gpu['bf16']:
            yield Problem(
                'warning',
                f'GPU {index} ({gpu["name"]}) computes bf16 slowly, so --amp does not help',
                'use fp16: --cfg-options optim_wrapper.type=AmpOptimWrapper',
            )
    if 'torch_cuda' in facts and not gpus:
        if _has_nvidia_device():
            built = facts['torch_cuda']
            yield Problem(
                'error',
                'there is an NVIDIA GPU, but torch '
                + (f'(for CUDA {built}) cannot use it' if built else 'was built without CUDA'),
                'nvidia-smi (is the driver new enough?)' if built else install_all(),
            )
        else:
            yield Problem('info', 'no GPU: fp32 and bf16 on the CPU')
    if 'mmcv_cuda' in facts:
        compiled = facts['mmcv_cuda']
        for_cuda = compiled != 'not available'
        ops = f'CPU and CUDA {compiled}' if for_cuda else 'CPU'
        if facts.get('mmcv_stand_in'):
            ops = 'those of torchvision; make env MMCV_OPS=cpu or cuda compiles all'
        yield Problem('info', f'mmcv operators: {ops}')
        built = facts.get('torch_cuda')
        if for_cuda and built and compiled.split('.')[0] != built.split('.')[0]:
            yield Problem(
                'error',
                f"mmcv's operators were compiled for CUDA {compiled}, torch for {built}",
                reinstall_mmcv(),
            )
    if 'torch_cuda' in facts:
        yield Problem('info', f'deformable attention: {which_attention(facts)}')


def which_attention(facts: dict) -> str:
    """Returns the implementation of deformable attention that will run.

    If this project cannot be imported, the answer follows from the devices and packages.
    """
    if 'attention' in facts:
        return facts['attention']
    if not facts.get('gpus'):
        return 'PyTorch, on the CPU'
    kernels = Path(__file__).resolve().parents[1] / 'models/deformable_attention.py'
    if facts.get('triton') and kernels.is_file():
        return 'Triton kernels'
    if facts.get('mmcv_cuda', 'not available') != 'not available':
        return 'the CUDA operator of mmcv, in fp32; fp16 and bf16 are converted'
    return 'PyTorch, which is slow and needs much memory; install triton, or use MMCV_OPS=cuda'


def _has_nvidia_device() -> bool:
    return os.path.exists('/proc/driver/nvidia/version') or os.path.exists('/dev/nvidia0')
