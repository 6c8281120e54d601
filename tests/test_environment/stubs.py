"""Environments made of stubs: folders with empty packages and the metadata that pip writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Packages that training needs, in their tested versions, and the modules that are imported.
VERSIONS = {
    'torch': '2.14.1',
    'torchvision': '0.29.1',
    'numpy': '2.2.6',
    'pycocotools': '2.0.11',
    'msgspec': '0.22.0',
    'hotcoco': '1.3.0',
    'matplotlib': '3.11.2',
    'safetensors': '0.8.0',
    'pillow': '13.0.0',
    'pyyaml': '6.0.3',
    'scipy': '1.17.1',
    'jinja2': '3.1.6',
    'filelock': '4.2.11',
    'psutil': '7.2.2',
    'rich': '15.0.0',
    'setuptools': '80.10.2',
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmdetection': '3.5.1',
    'onedl-mmpretrain': '1.3.6',
}
MODULES = {
    'numpy': '',
    'cv2': '',
    'torch': '',
    'torchvision': '',
    'pycocotools': '',
    'pycocotools.mask': '',
    'scipy': '',
    'scipy.optimize': '',
    'mmengine': '',
    'mmcv': '',
    'mmcv.ops': "def get_compiling_cuda_version(): return 'not available'",
    'mmpretrain': '',
    'mmpretrain.models': '',
    'mmdet': '',
    'mmdet.models': '',
}
TORCH = """
from types import SimpleNamespace
gpus = {gpus}
version = SimpleNamespace(cuda={cuda!r})
cuda = SimpleNamespace(
    is_available=lambda: bool(gpus),
    device_count=lambda: len(gpus),
    get_device_properties=lambda i: SimpleNamespace(name=gpus[i][0], major=gpus[i][1],
                                                    total_memory=80 * 2**30))
"""


def torch_with(*gpus: tuple[str, int], cuda: str | None = '13.0') -> str:
    """Returns code of a ``torch`` that sees GPUs, given as name and major compute capability."""
    return TORCH.format(gpus=list(gpus), cuda=cuda)


def make_environment(
    folder: Path, versions: dict[str, str | None] | None = None, modules: dict | None = None
) -> Path:
    """Writes the stubs; the arguments replace parts of a sound set, and None removes them."""
    site = folder / 'site'
    for name, version in {**VERSIONS, **(versions or {})}.items():
        if version is not None:
            info = site / f'{name.replace("-", "_")}-{version}.dist-info'
            info.mkdir(parents=True)
            (info / 'METADATA').write_text(
                f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
            )
    for name, code in {**MODULES, **(modules or {})}.items():
        if code is not None:
            package = site.joinpath(*name.split('.'))
            package.mkdir(parents=True, exist_ok=True)
            (package / '__init__.py').write_text(code)
    site.mkdir(exist_ok=True)
    return site


def run_in(site: Path, tool: str, *args: object, **environment: str) -> subprocess.CompletedProcess:
    """Runs a tool with nothing but the standard library and a folder of stubs."""
    variables = dict(os.environ, PYTHONPATH=os.pathsep.join((str(site), str(ROOT))), **environment)
    return subprocess.run(
        [sys.executable, '-S', str(ROOT / 'tools' / f'{tool}.py'), *map(str, args)],
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
    )
