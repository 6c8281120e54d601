"""Fixtures that several test modules share."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest

# As the package sets it: libgomp reads it when torch is imported.
os.environ.setdefault('GOMP_SPINCOUNT', '1000')

# Trainings of tests compare bits, which sums on a GPU do not repeat. So tests do not see GPUs but
# with `-m gpu`; the variable tells the processes of pytest-xdist.
_GPUS = 'MMDET_DINOV2_TEST_GPUS'
if '-m' in sys.argv and 'gpu' in sys.argv[sys.argv.index('-m') + 1].split():
    os.environ[_GPUS] = '1'
if not os.environ.get(_GPUS):
    os.environ['CUDA_VISIBLE_DEVICES'] = ''

try:
    import torch
except ImportError:
    pass  # explained by the next import
else:
    if not torch.cuda.is_available():
        # Triton reads it when it is imported, by transformers too: its kernels run on the CPU.
        os.environ.setdefault('TRITON_INTERPRET', '1')
try:
    import mmdet_dinov2  # noqa: F401  registers the modules
except ImportError as error:
    pytest.exit(str(error), returncode=1)

from mmengine.registry import init_default_scope  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]

# The launch scripts run the interpreter of the tests, in a checkout without an environment too.
os.environ.setdefault('PYTHON', sys.executable)
# mmengine's datasets collect garbage when they are built, which goes over all that was imported.
gc.freeze()

# Fixtures of a wider scope build models before the ones of a test.
init_default_scope('mmdet')


# Folders of tests that train.
_TRAINING = {'test_cli', 'test_engine', 'test_hooks', 'test_optim', 'test_resume'}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that train first, so that no process ends alone with a long one."""
    items.sort(key=lambda item: not _TRAINING.intersection(item.path.parts))


@pytest.fixture(autouse=True)
def _defaults():
    """The registry scope and the seed that every test starts from."""
    init_default_scope('mmdet')
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def root() -> Path:
    """Root of the repository."""
    return ROOT


@pytest.fixture(scope='session')
def shared() -> Path:
    """Folder with real data beside the repository; tests that need it are skipped without it."""
    folder = ROOT.parent / 'shared'
    if not (folder / 'data').is_dir():
        pytest.skip('needs the folder ../shared with real data')
    return folder
