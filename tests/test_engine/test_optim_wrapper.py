import torch
from mmengine.optim import build_optim_wrapper
from torch import nn


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
