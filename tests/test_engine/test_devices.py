"""Which GPUs a run takes, and GPUs that it cannot take."""

import os

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmdet_dinov2.engine.runner import StrictRunner
from mmdet_dinov2.environment import unused_gpu
from mmdet_dinov2.errors import InputError


@pytest.fixture
def setup(monkeypatch):
    """Calls ``setup_env`` of a runner; returns the number of the GPU that mmengine would take."""
    taken = []

    def take(runner, cfg):
        taken.append(os.environ.get('SLURM_LOCALID'))
        runner._timestamp = '20260101_000000'

    monkeypatch.setattr(Runner, 'setup_env', take)

    def call(launcher='none'):
        # `super()` in the method needs an object of the class.
        real = StrictRunner.__new__(StrictRunner)
        vars(real).update(cfg=Config(), _distributed=False, _launcher=launcher)
        real.setup_env({})
        return taken[-1]

    return call


@pytest.mark.parametrize(
    ('launcher', 'gpus', 'taken'), [('slurm', 1, '0'), ('slurm', 4, '2'), ('none', 1, '2')]
)
def test_a_task_of_slurm_with_one_gpu_takes_it(setup, monkeypatch, launcher, gpus, taken):
    monkeypatch.setenv('SLURM_LOCALID', '2')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: gpus)
    assert setup(launcher) == taken
    assert os.environ['SLURM_LOCALID'] == '2'


def test_a_gpu_that_cannot_be_used_stops_the_run(setup, monkeypatch, tmp_path):
    device = tmp_path / 'nvidia0'
    monkeypatch.setattr(unused_gpu, '_DEVICE', str(device))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    setup()
    device.touch()
    monkeypatch.setattr(torch.version, 'cuda', '12.8')
    with pytest.raises(InputError, match='built for CUDA 12.8, cannot use it; .*nvidia-smi'):
        setup()
    monkeypatch.setattr(torch.version, 'cuda', None)
    with pytest.raises(InputError, match='without CUDA, .*CUDA_VISIBLE_DEVICES= to run on the'):
        setup()
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    setup()
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    setup()
