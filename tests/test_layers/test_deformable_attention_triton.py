"""The Triton kernels, on a GPU if there is one, else in Triton's interpreter on the CPU.

The interpreter takes a quarter of a second per sampling point, so the inputs are small.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmdet_dinov2.layers import deformable_attention, triton_problem

from .sampling import sampling_inputs, stream_inputs, with_gradients

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
GPU = pytest.mark.skipif(DEVICE == 'cpu', reason='needs a GPU')
DTYPES = [torch.float32, torch.float16, torch.bfloat16]

pytestmark = pytest.mark.gpu


def compare(inputs, query_images=None):
    """Compares results and gradients with those of PyTorch, up to the rounding of the values."""
    problem = triton_problem(inputs[0].device, inputs[0].dtype)
    if problem:
        pytest.skip(f'Triton does not run: {problem}')
    results = [
        with_gradients(deformable_attention(*inputs, name, query_images), inputs)
        for name in ('triton', 'pytorch')
    ]
    for got, expected in zip(*results, strict=True):
        assert got.dtype == expected.dtype
        # Gradients of locations are differences of large terms; their error is relative to these.
        largest = expected.detach().abs().max().item() if expected.numel() else 0.0
        tolerance = dict(rtol=1e-4, atol=max(1e-4, 1e-5 * largest))
        if got.dtype != torch.float32:
            tolerance = dict(rtol=2 * torch.finfo(got.dtype).eps, atol=max(1e-3, 1e-5 * largest))
        torch.testing.assert_close(got, expected, **tolerance)


@pytest.mark.parametrize('dtype', DTYPES)
def test_equals_pytorch_with_gradients(dtype):
    """The head dimension is not a power of two, points lie outside, and a level has one cell."""
    shapes = [(3, 5), (1, 1)]
    compare(sampling_inputs(1, 7, 2, dim=6, shapes=shapes, value_dtype=dtype, device=DEVICE))


def test_several_blocks_images_and_levels():
    """There are more queries than the 1024 / 128 = 8 of a block."""
    shapes = [(2, 3), (3, 1), (1, 2)]
    compare(sampling_inputs(2, 9, 1, dim=100, points=1, shapes=shapes, device=DEVICE))


def test_images_of_different_sizes():
    """Blocks of 8 queries have those of several images."""
    shapes = [[(2, 3), (1, 2)], [(1, 1), (3, 1)], [(4, 2), (2, 1)]]
    *inputs, images = stream_inputs(shapes, [3, 1, 6], dim=100, device=DEVICE)
    compare(tuple(inputs), images)


def test_one_query():
    compare(sampling_inputs(1, 1, 1, dim=1, points=3, shapes=[(5, 4)], device=DEVICE))


@pytest.mark.parametrize('empty', [dict(queries=0), dict(batch=0)])
def test_nothing_to_compute(empty):
    compare(sampling_inputs(**empty, device=DEVICE))


def test_inputs_need_not_be_contiguous():
    value, shapes, locations, weights = sampling_inputs(
        1, 4, 1, dim=4, points=2, shapes=[(3, 4)], device=DEVICE
    )
    value = value.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    locations = locations.detach().flip(1).flip(1)[..., [1, 0]][..., [1, 0]].requires_grad_()
    weights = weights.detach().transpose(1, 4).contiguous().transpose(1, 4).requires_grad_()
    compare((value, shapes, locations, weights))


@torch.no_grad()
def test_levels_that_do_not_fit_are_not_read():
    """On a GPU the sizes are not checked; memory beyond the values must not be read."""
    from mmdet_dinov2.layers import deformable_attention_triton

    value, shapes, locations, weights = sampling_inputs(
        1, 2, 1, dim=4, points=1, shapes=[(2, 2), (2, 3)], device=DEVICE
    )
    locations.fill_(0.5)
    longer = torch.cat((value[0], torch.full_like(value[0], torch.nan)))
    image = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    first_level = weights[0] * torch.tensor([1.0, 0.0]).to(value)[:, None]
    run = deformable_attention_triton.forward
    got = run(longer[:7], shapes[None], image, locations[0], weights[0])
    expected = run(value[0], shapes[None], image, locations[0], first_level)
    torch.testing.assert_close(got, expected)


def test_float64_is_refused():
    inputs = sampling_inputs(dtype=torch.float64, device=DEVICE)
    with pytest.raises(ValueError, match="float64; use implementation='pytorch'"):
        deformable_attention(*inputs, 'triton')


@GPU
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('queries', [1100, None])
def test_published_sizes_on_a_gpu(dtype, queries):
    """The sizes are those of decoder and encoder for a batch of 2 at 800 x 1333."""
    shapes = [(100, 167), (50, 84), (25, 42), (13, 21)]
    queries = queries or sum(h * w for h, w in shapes)
    compare(
        sampling_inputs(
            2, queries, 8, dim=32, points=4, shapes=shapes, value_dtype=dtype, device=DEVICE
        )
    )


@GPU
def test_sizes_do_not_lead_to_compilation_on_a_gpu():
    from mmdet_dinov2.layers.deformable_attention_triton import _backward_kernel, _forward_kernel

    def compiled():
        device = torch.cuda.current_device()
        return [
            len(kernel.device_caches[device][0]) for kernel in (_forward_kernel, _backward_kernel)
        ]

    counts = []
    for size in (1, 2, 16, 17, 64):
        compare(sampling_inputs(size, size, 2, 32, shapes=[(size, size), (1, 16)], device=DEVICE))
        counts.append(compiled())
    assert counts[0] == counts[-1]


@pytest.mark.slow
@pytest.mark.parametrize('capability', [80, 90])
def test_kernels_compile_without_the_gpu(capability, tmp_path):
    """The machine code has vector loads, and vector additions if the GPU supports them."""
    script = Path(__file__).with_name('compile_kernels.py')
    environment = {**os.environ, 'TRITON_INTERPRET': '0', 'TRITON_CACHE_DIR': str(tmp_path)}
    result = subprocess.run(
        [sys.executable, str(script), str(capability)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    forward, backward = json.loads(result.stdout.splitlines()[-1])
    assert forward['ld.global.v4.b32'] == 16  # 4 points x 4 neighbours x 8 bf16 at once
    added = 'atom.global.gpu.relaxed.add.v4.f32'
    assert (added in backward) == (capability >= 90)
