"""Counted operators, waits of the host, and kernels of compiled graphs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import _disable_current_modes

from mmdet_dinov2.benchmark.compiled_kernels import KernelCountingBackend
from mmdet_dinov2.benchmark.operators import OTHER, OperatorCounter, count_operators, sums
from mmdet_dinov2.benchmark.waits import WaitCounter


def test_operators_of_parts():
    x = torch.ones(3, 2, requires_grad=True)
    with OperatorCounter() as counter:
        y = x.T + 1  # the view does not count
        with counter.part('product'):
            z = y * y
            with counter.part('sum'):
                z = z.sum()
            z = z + 1
        with counter.part('backward'):
            z.backward()
    parts = sums(counter.counts, 0)
    assert parts[OTHER] == 1 and parts['product'] == 2 and parts['sum'] == 1
    assert sums(counter.counts, 1)['mul'] == 1 + 2  # two in the backward pass
    assert parts['backward'] >= 3
    assert count_operators(lambda: (x + 1).T) == 1


DEVICE = torch.device('cpu')


@pytest.mark.parametrize(
    ('work', 'waits'),
    [
        (lambda x: (x * 2).sum().item(), 1),
        (lambda x: float(x.T[0, 0]) > 0 and bool(x[1, 1] > 0), 2),
        (lambda x: (x + 1).tolist(), 1),
        (lambda x: x.cpu().numpy().sum() + x.cpu().tolist()[0][0], 2),
        (lambda x: x[x > 0], 1),
        (lambda x: x[[1, 0]], 1),
        (lambda x: x[torch.arange(2, device=DEVICE)] + x[:, 1:], 0),
        (lambda x: (x > 0).nonzero(), 1),
        (lambda x: torch.ones(3).to(x.device) + torch.ones(3).to(x), 2),
        (lambda x: torch.ones(3).to(x.device, non_blocking=True).sum().item(), 1),
        (lambda x: x.new_tensor([1.0]).sum().item() + torch.tensor(1, device=x.device), 3),
        (lambda x: torch.repeat_interleave(torch.ones(2, dtype=int, device=DEVICE)), 1),
        # Numbers of the host.
        (lambda x: torch.ones(3).sum().item() + torch.rand(2).tolist()[0], 0),
        (lambda x: torch.from_numpy(np.ones(2)).nonzero()[torch.tensor([1])].tolist(), 0),
        (lambda x: x.to(torch.float64).float() + x.new_zeros(2) + torch.zeros(2).double(), 0),
    ],
)
def test_waits(work, waits):
    x = torch.ones(2, 2)
    counter = WaitCounter([x])
    with counter.watch(), counter.part('work'):
        work(x)
    assert sums(counter.counts, 0) == ({'work': waits} if waits else {})


def test_waits_in_the_backward_pass():
    class Waits(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * grad.max().item()

    x = torch.ones(2, requires_grad=True)
    counter = WaitCounter([x])
    with counter.watch():
        loss = Waits.apply(x).sum()
        assert not counter.counts
        loss.backward()
    assert counter.counts.total() == 1


def kernels_of(work, *args):
    """Kernels of the forward pass of a compiled function."""
    torch._dynamo.reset()
    backend, counter = KernelCountingBackend(), OperatorCounter()
    compiled = torch.compile(work, backend=backend, dynamic=True)
    expected = work(*args)
    torch.testing.assert_close(compiled(*args), expected)
    backend.counter = counter
    with counter, _disable_current_modes():
        compiled(*args)
    return sums(counter.counts, 1)['compiled']


@torch.no_grad()
def test_kernels_are_those_of_the_compiler():
    x, weight, scale = torch.rand(5, 4), torch.rand(4, 4), torch.rand(4)
    for work, kernels in (
        (lambda x: x.T, 0),
        (lambda x: (x * 2).exp() + x, 1),
        (lambda x: (x * 2).sum(1).exp(), 1),
        (lambda x: F.layer_norm(F.gelu(x * scale) + x, (4,), scale), 1),
        (lambda x: F.gelu(F.linear(x, weight) * 2), 2),
        (lambda x: F.linear(F.gelu(F.linear(x, weight) * 2), weight) + x, 3),
    ):
        assert kernels_of(work, x) == kernels


def test_compiled_graphs_count_as_kernels():
    torch._dynamo.reset()
    backend = KernelCountingBackend()
    compiled = torch.compile(lambda x, w: (F.linear(x, w) + 1).sigmoid() * 3, backend=backend)
    x, weight = torch.ones(5, 4), torch.ones(4, 4, requires_grad=True)
    compiled(x, weight).sum().backward()
    with OperatorCounter() as counter:
        backend.counter = counter
        with _disable_current_modes():
            output = compiled(x, weight)
        loss = output * 2
        assert sums(counter.counts, 1) == {'compiled': 2, 'mul': 1}
        loss.sum().backward()
    assert sums(counter.counts, 1)['compiled'] == 2 + 2
    torch._dynamo.reset()
