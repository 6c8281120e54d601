"""Weights that are converted together give the results of autocast, to the bit."""

import copy

import pytest
import torch
from torch import nn

from mmdet_dinov2.layers import recomputable
from mmdet_dinov2.layers.low_precision import converted_together


class Net(nn.Module):
    """A convolution, a layer that runs twice, one that is recomputed, one without a gradient."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.twice = nn.Linear(4, 4)
        self.again = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)
        self.exact = nn.Linear(4, 2)
        self.with_cp = True

    @recomputable
    def recomputed(self, x):
        return self.again(x).relu()

    def forward(self, x):
        x = self.conv(x).flatten(2).transpose(1, 2)
        x = self.recomputed(self.twice(self.twice(x)))
        with torch.autocast('cpu', enabled=False):
            return self.exact(x.float())


def gradients(net, x, together):
    lowered = [module for name, module in net.named_modules() if name != 'exact']
    with torch.autocast('cpu', torch.bfloat16):
        if together:
            with converted_together(lowered, x.device):
                assert net.twice.weight.dtype == torch.bfloat16
                assert {p.dtype for p in net.parameters()} == {torch.float32}
                out = net(x)
        else:
            out = net(x)
    out.square().sum().backward()
    return [out, *(p.grad for p in net.parameters())]


def test_results_are_those_of_autocast():
    net, x = Net(), torch.randn(2, 3, 5, 6)
    twin = copy.deepcopy(net)
    expected, got = gradients(net, x, False), gradients(twin, x, True)
    for one, other in zip(got, expected, strict=True):
        assert (one is None) == (other is None)
        assert one is None or (one.dtype == other.dtype and torch.equal(one, other))
    assert twin.unused.weight.grad is None
    assert isinstance(twin.twice.weight, nn.Parameter)
    assert list(twin.state_dict()) == list(net.state_dict())


def test_an_error_leaves_the_parameters():
    net = Net()
    with torch.autocast('cpu', torch.bfloat16), pytest.raises(ValueError, match='planted'):
        with converted_together(net.modules(), torch.device('cpu')):
            raise ValueError('planted')
    assert not any('weight' in module.__dict__ for module in net.modules())


def test_without_autocast_or_gradients_nothing_happens():
    net = Net()
    with converted_together(net.modules(), torch.device('cpu')):
        assert net.conv.weight.dtype == torch.float32
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        with converted_together(net.modules(), torch.device('cpu')):
            assert net.conv.weight.dtype == torch.float32
