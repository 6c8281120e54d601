"""Networks that are computed together give what each of them gives alone."""

import copy

import torch
from torch import nn

from mmdet_dinov2.benchmark.operators import count_operators
from mmdet_dinov2.layers.stacked import run_stacked

NETWORKS = {
    'linear': lambda: nn.Linear(5, 3),
    'sequence': lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4)),
    'norm': lambda: nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.GELU(), nn.Linear(7, 2)),
}


def with_gradients(outputs, inputs, parameters):
    return torch.autograd.grad(outputs.square().sum(), (inputs, *parameters))


def test_results_and_gradients_are_those_of_each_network():
    for name, make in NETWORKS.items():
        networks = nn.ModuleList(make() for _ in range(3))
        for parameter in networks.parameters():
            nn.init.normal_(parameter)
        for tokens in (0, 1, 11):
            inputs = torch.randn(3, tokens, 5, requires_grad=True)
            expected = torch.stack([run(x) for run, x in zip(networks, inputs, strict=True)])
            got = run_stacked(list(networks), inputs)
            torch.testing.assert_close(got, expected, msg=name)
            parameters = list(networks.parameters())
            torch.testing.assert_close(
                with_gradients(got, inputs, parameters),
                with_gradients(expected, inputs, parameters),
                rtol=1e-5,
                atol=1e-5,
            )


def test_one_network_for_all_inputs():
    network = nn.Linear(5, 3)
    inputs = torch.randn(2, 4, 5)
    got = run_stacked([network] * 2, inputs)
    torch.testing.assert_close(got, network(inputs))
    got.sum().backward()
    alone = copy.deepcopy(network)
    alone.zero_grad()
    alone(inputs).sum().backward()
    torch.testing.assert_close(network.weight.grad, alone.weight.grad)


def test_more_networks_are_not_more_operators():
    networks = [NETWORKS['sequence']() for _ in range(6)]
    counts = [
        count_operators(lambda n=n: run_stacked(networks[:n], torch.ones(n, 4, 5))) for n in (2, 6)
    ]
    # Two stacks and a product for each linear layer, the activation, the inputs and the layout.
    assert counts[0] == counts[1] == 2 * 3 + 1 + 1 + 1


def test_gradients_of_weights_are_not_copied():
    networks = [NETWORKS['linear']() for _ in range(3)]
    loss = run_stacked(networks, torch.randn(3, 4, 5)).square().sum()
    gradients = torch.autograd.grad(loss, [network.weight for network in networks])
    assert all(gradient.is_contiguous() for gradient in gradients)
