import torch
from torch import nn

from mmdet_dinov2.layers import recompute


def test_results_and_gradients_are_those_of_the_call():
    layer = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    x = torch.randn(5, 3, requires_grad=True)
    results = []
    for again in (False, True):
        torch.manual_seed(1)
        layer.zero_grad()
        x.grad = None
        out = recompute.call(layer, x, recompute=again)
        out.square().sum().backward()
        results.append([out, x.grad, *(p.grad for p in layer.parameters())])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


def test_activations_are_computed_again_only_where_asked_for():
    calls = []

    def square(x, *, factor):
        calls.append(torch.is_autocast_enabled('cpu'))
        return x.square() * factor

    x = torch.randn(2, requires_grad=True)
    recompute.call(square, x, recompute=False, factor=2).sum().backward()
    assert calls == [False]
    calls.clear()
    with torch.autocast('cpu', torch.bfloat16):
        out = recompute.call(square, x, recompute=True, factor=2)
    out.sum().backward()
    assert calls == [True, True]
    calls.clear()
    with torch.no_grad():
        recompute.call(square, x, recompute=True, factor=2)
    assert calls == [False]
