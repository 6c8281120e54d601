"""Optimizer wrappers of mixed precision."""

import pytest
import torch
from mmengine.optim import AmpOptimWrapper, build_optim_wrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from torch import nn

from mmdet_dinov2.checkpoint import read_checkpoint
from mmdet_dinov2.checkpoint.sharded import gather
from mmdet_dinov2.files import write_checkpoint


def test_bf16_runs_on_the_cpu_and_keeps_fp32_parameters():
    model = nn.Linear(4, 4)
    wrapper = build_optim_wrapper(
        model, dict(type='Bf16OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    )
    with wrapper.optim_context(model):
        out = model(torch.ones(2, 4))
    assert out.dtype == torch.bfloat16
    assert not torch.is_autocast_enabled('cpu')
    before = model.weight.clone()
    wrapper.update_params(out.float().sum())
    assert model.weight.dtype == torch.float32 and not torch.equal(model.weight, before)


@pytest.mark.filterwarnings('ignore:torch.cuda.amp')
def test_the_loss_scale_of_fp16_travels_with_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)

    def build():
        model = nn.Linear(3, 2)
        wrapper = AmpOptimWrapper(optimizer=torch.optim.AdamW(model.parameters(), lr=0.1))
        wrapper.loss_scaler = torch.amp.GradScaler('cpu')
        return model, wrapper

    model, before = build()
    before.update_params((model(torch.ones(1, 3)) * 1e35).sum())  # overflows: the scale is halved
    before.update_params(model(torch.ones(1, 3)).sum())
    state = before.loss_scaler.state_dict()
    assert state['scale'] == build()[1].loss_scaler.get_scale() / 2
    assert state['_growth_tracker'] == 1
    path = str(tmp_path / 'a.pth')
    write_checkpoint(dict(optimizer=gather(before.state_dict(), 'cpu')), path)
    after = build()[1]
    after.load_state_dict(read_checkpoint(path)['optimizer'])
    assert after.loss_scaler.state_dict() == state
