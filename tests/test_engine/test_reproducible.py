"""Runs that are repeatable to the bit."""

import pytest
import torch
from mmengine.config import Config

from mmdet_dinov2.engine.reproducible import check_reproducible, use_reproducible_algorithms

from ..tools import ROOT, run_tool, write_config


@pytest.fixture
def restored_settings():
    """Restores PyTorch's settings after the test."""
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(before[0])
    cudnn.deterministic, cudnn.benchmark = before[1:]


def test_settings(restored_settings, monkeypatch):
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG', raising=False)
    use_reproducible_algorithms()
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(reproducible='yes'), "must be True or False, but is 'yes'"),
        (dict(reproducible=True), 'needs a fixed seed'),
        (dict(reproducible=True, randomness=dict(seed=None)), 'needs a fixed seed'),
    ],
)
def test_bad_settings_are_refused(cfg, message):
    with pytest.raises(ValueError, match=message):
        check_reproducible(Config(cfg))


def test_the_config_part_turns_it_on(tmp_path, restored_settings):
    part = Config.fromfile(ROOT / 'configs/_base_/reproducible.py')
    assert check_reproducible(Config(dict(part, randomness=dict(seed=0))))
    assert not check_reproducible(Config(dict()))
    config = write_config(tmp_path, 'train_cfg = dict(max_epochs=1, val_interval=1)\n')
    torch.use_deterministic_algorithms(False)
    run_tool('train', config, '--work-dir', tmp_path / 'work', '--cfg-options', 'reproducible=True')
    assert torch.are_deterministic_algorithms_enabled()
