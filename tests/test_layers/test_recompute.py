import torch
from torch import nn

from mmdet_dinov2.layers import recomputable


class Network(nn.Module):
    """A layer with dropout that notes its calls."""

    def __init__(self, with_cp):
        super().__init__()
        self.with_cp = with_cp
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
        self.calls = []

    @recomputable
    def forward(self, x, *, factor=1):
        self.calls.append(torch.is_autocast_enabled('cpu'))
        return self.layers(x) * factor


def test_results_and_gradients_are_those_of_the_call():
    x = torch.randn(5, 3, requires_grad=True)
    plain, saving = Network(with_cp=False), Network(with_cp=True)
    saving.load_state_dict(plain.state_dict())
    results = []
    for network in (plain, saving):
        torch.manual_seed(1)
        x.grad = None
        out = network(x, factor=2)
        out.square().sum().backward()
        results.append([out, x.grad, *(p.grad for p in network.parameters())])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


def test_activations_are_computed_again_only_where_asked_for():
    x = torch.randn(2, 3)
    plain, saving = Network(with_cp=False), Network(with_cp=True)
    plain(x).sum().backward()
    assert plain.calls == [False]
    with torch.autocast('cpu', torch.bfloat16):
        out = saving(x)
    out.sum().backward()
    assert saving.calls == [True, True]
    saving.calls.clear()
    with torch.no_grad():
        saving(x)
    assert saving.calls == [False]
