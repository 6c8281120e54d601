"""Explains a failed import in one sentence, with the command that fixes it."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable

from .commands import apt_install, install, install_all, reinstall_mmcv

# Import names of distributions that have a different name.
_DISTRIBUTIONS = dict(
    cv2='opencv-python-headless', PIL='pillow', yaml='pyyaml', skimage='scikit-image'
)
_OPENMMLAB = dict(
    mmengine='onedl-mmengine',
    mmcv='onedl-mmcv',
    mmdet='onedl-mmdetection',
    mmpretrain='onedl-mmpretrain',
)

# Pattern of the text of an error, cause and remedy; the first that matches counts.
_CAUSES: tuple[tuple[str, str, Callable[[], str]], ...] = (
    (
        r"No module named 'mmcv\._ext'",
        'mmcv is installed without its compiled operators, and the stand-in of this project for '
        'them is not installed',
        install_all,
    ),
    (
        r'mmcv/_ext\S*: undefined symbol|_ext\S*\.so: undefined symbol',
        "mmcv's operators were compiled for a different version of torch",
        reinstall_mmcv,
    ),
    (
        r"No module named 'pkg_resources'",
        'setuptools is missing or too new (81 and later have no pkg_resources)',
        lambda: install('setuptools>=80,<81'),
    ),
    (
        r'libGL\.so|libgthread|libglib',
        'OpenCV does not load, because a graphics library that its desktop build needs is missing',
        lambda: (
            f'{apt_install("libgl1", "libglib2.0-0")}, or without root: '
            + install('--force-reinstall', '--no-deps', 'opencv-python-headless')
        ),
    ),
    (
        r'MMCV==\S+ is used but incompatible|MMEngine==\S+ is used but incompatible',
        'the versions of the OpenMMLab libraries are not compatible',
        install_all,
    ),
    (
        r'numpy\.core\.multiarray failed to import|_ARRAY_API|numpy\.dtype size changed',
        'a package was compiled for a different version of NumPy',
        install_all,
    ),
    (
        r"NoneType' object is not (callable|subscriptable)|NoneType.* takes no arguments"
        r'|transformers',
        'transformers 5 and later break mmpretrain, and thus mmdet.models',
        lambda: install('transformers<5'),
    ),
)


def explain_import_error(error: BaseException) -> str:
    """Returns what is wrong, and the command that fixes it.

    Args:
        error: The exception that the import of a package raised.
    """
    text = ' '.join(str(error).split()) or type(error).__name__
    name = getattr(error, 'name', None)
    missing = re.search(r"No module named '(\w+)'", text)
    for pattern, cause, remedy in _CAUSES:
        if re.search(pattern, text):
            return f'{cause} ({text}); run: {remedy()}'
    if isinstance(error, ModuleNotFoundError) and missing and missing[1] != 'mmdet_dinov2':
        package = (name or missing[1]).split('.')[0]
        if package in _OPENMMLAB or package in ('torch', 'torchvision'):
            distribution = _OPENMMLAB.get(package, package)
            return f'{distribution} (`import {package}`) is not installed; run: {install_all()}'
        # Without torch, most of the environment is missing.
        no_torch = importlib.util.find_spec('torch') is None
        remedy = install_all() if no_torch else install(_DISTRIBUTIONS.get(package, package))
        return f'`import {package}` fails, as it is not installed; run: {remedy}'
    return f'the installed packages are not compatible ({text}); run: {install_all()}'
