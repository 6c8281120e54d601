"""Compiled token-wise parts give the same results, for all sizes."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch._dynamo.utils import counters

from mmdet_dinov2.errors import InputError
from mmdet_dinov2.layers import TokenwiseModule, compiling, tokenwise

from ..tiny import pad_batch, tiny_backbone

NUM_SIZES = 20


@pytest.fixture
def use_backend(monkeypatch):
    """Sets the backend: 'aot_eager' is all of the compiler except code generation."""

    def use(backend):
        monkeypatch.setattr(compiling, '_BACKEND', backend)
        torch._dynamo.reset()
        counters.clear()

    yield use
    torch._dynamo.reset()


def batches():
    """Yields batches of 1 to 3 images, of one size and of several, with 20 sizes or more."""
    for index in range(NUM_SIZES):
        sizes = [tuple(torch.randint(15, 120, (2,)).tolist()) for _ in range(1 + index % 3)]
        if index % 5 == 1:
            sizes = sizes[:1] * len(sizes)
        canvas = tuple(max(size[axis] for size in sizes) for axis in (0, 1))
        yield pad_batch([torch.randn(3, *size) for size in sizes], canvas), sizes


def run(model, images, sizes, autocast=False):
    """Returns features, and gradients if there are any."""
    model.zero_grad()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        (out,) = model(images, sizes, range(len(sizes)))
    if out.requires_grad:
        out.float().square().sum().backward()
    return [out.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


TRAINED = dict(drop_path_rate=0.3, window_size=2, global_attn_indexes=(1, 3))
PARTLY = dict(frozen_stages=2, frozen_dtype='bfloat16', with_cp=True)


@pytest.mark.parametrize(
    ('backend', 'options'),
    [
        ('aot_eager', TRAINED),
        pytest.param('aot_eager', dict(TRAINED, type='DINOv3'), marks=pytest.mark.slow),
        pytest.param('inductor', TRAINED, marks=pytest.mark.slow),
        pytest.param('inductor', dict(TRAINED, type='DINOv3'), marks=pytest.mark.slow),
        pytest.param('inductor', PARTLY, marks=pytest.mark.slow),
        pytest.param('inductor', dict(PARTLY, type='DINOv3'), marks=pytest.mark.slow),
    ],
)
def test_results_are_equal_and_sizes_do_not_lead_to_compilation(use_backend, backend, options):
    use_backend(backend)
    plain = tiny_backbone(**options).train()
    model = tiny_backbone(**options, compiled=True).train()
    assert all(block.compiled for block in model.blocks)
    model.load_state_dict(plain.state_dict())
    assert list(model.state_dict()) == list(plain.state_dict())
    compiled = 0
    for index, (images, sizes) in enumerate(batches()):
        for got, expected in zip(run(model, images, sizes), run(plain, images, sizes), strict=True):
            # Compiled code rounds to bf16 in other places.
            tolerance = 0.02 if 'frozen_dtype' in options else 1e-4
            assert (got - expected).norm() <= tolerance * expected.norm()
        if index == 0:
            compiled = counters['stats']['unique_graphs']
    assert compiled > 0 and not counters['graph_break']
    assert counters['stats']['unique_graphs'] - compiled <= 2


@pytest.mark.slow
def test_copies_and_autocast(use_backend):
    use_backend('inductor')
    model = tiny_backbone(compiled=True).train()
    twin = copy.deepcopy(model)
    assert all(block.compiled for block in twin.blocks)
    images = torch.randn(2, 3, 60, 45)
    plain = tiny_backbone().train()
    plain.load_state_dict(twin.state_dict())
    for got, expected in zip(
        run(twin, images, [(60, 45)] * 2, autocast=True),
        run(plain, images, [(60, 45)] * 2, autocast=True),
        strict=True,
    ):
        assert (got - expected).norm() <= 0.03 * expected.norm()
    assert counters['stats']['unique_graphs']


class Scaling(TokenwiseModule):
    @tokenwise
    def scaled(self, tokens, scale, network):
        return network(tokens) * scale


def test_modules_and_tensors_of_one_shape_are_arguments(use_backend):
    use_backend('eager')
    module, scale = Scaling(compiled=True), torch.randn(3)
    networks = [torch.nn.Linear(5, 3) for _ in range(4)]
    for count, network in zip((7, 2, 0, 1), networks, strict=True):
        tokens = torch.randn(count, 5)
        torch.testing.assert_close(module.scaled(tokens, scale, network), network(tokens) * scale)
    # Neither another network nor another number of tokens; few tokens run as they are.
    assert counters['stats']['unique_graphs'] == 1


class Exact(TokenwiseModule):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.exact = torch.nn.Linear(64, 64)

    @tokenwise
    def project(self, tokens):
        with torch.autocast('cpu', enabled=False):
            return self.exact(tokens)


def test_what_leaves_autocast_has_its_gradients_in_fp32(use_backend):
    use_backend('aot_eager')
    module, tokens = Exact(compiled=True), torch.randn(50, 64)
    with torch.autocast('cpu', torch.bfloat16):
        projected = module.project(tokens)
    assert counters['stats']['unique_graphs'] == 1
    (gradient,) = torch.autograd.grad(projected.square().sum(), module.exact.weight)
    expected = (2 * module.exact(tokens)).T @ tokens
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-4)


def test_nothing_is_compiled_without_the_switch(use_backend):
    use_backend('aot_eager')
    run(tiny_backbone().train(), torch.randn(1, 3, 28, 28), [(28, 28)])
    assert not counters['stats']['unique_graphs']


def test_a_backend_that_fails_is_reported(use_backend):
    def broken(graph, inputs):
        raise RuntimeError('no compiler in /usr/bin')

    use_backend(broken)
    with pytest.raises(InputError, match=r'machine \(no compiler in /usr/bin\): .* compiled=False'):
        tiny_backbone(compiled=True)(torch.randn(1, 3, 28, 28))


@pytest.mark.slow
def test_a_machine_without_a_compiler_is_reported(tmp_path, root):
    script = (
        'import torch\n'
        'from tests.tiny import tiny_backbone\n'
        'tiny_backbone(compiled=True)(torch.randn(1, 3, 28, 28))\n'
    )
    environment = dict(
        os.environ,
        PYTHONPATH=str(root),
        CUDA_VISIBLE_DEVICES='',
        CXX=str(tmp_path / 'none'),
        TORCHINDUCTOR_CACHE_DIR=str(tmp_path / 'cache'),
    )
    result = subprocess.run(
        [sys.executable, '-c', script], env=environment, capture_output=True, text=True
    )
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert 'InputError: compiled=True does not work' in last and 'C++ compiler' in last
