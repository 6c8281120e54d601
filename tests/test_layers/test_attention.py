from types import SimpleNamespace

import pytest
import torch

from mmdet_dinov2.layers import Attention, Segments, attention, dense_attention, segment_attention
from mmdet_dinov2.layers.dense_attention import needs_fixed_order

from ..reference.attention import slow_segment_attention

LENGTHS = [[5], [4, 4, 4], [3, 7, 7, 1, 2]]


@pytest.mark.parametrize('lengths', LENGTHS)
def test_equals_the_definition_with_gradients(lengths):
    tokens = sum(lengths)
    qkv = [torch.randn(tokens, 2, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    weight = torch.randn(tokens, 2, 8, dtype=torch.float64)
    fast = segment_attention(*qkv, Segments.from_lengths(lengths))
    slow = slow_segment_attention(*qkv, lengths)
    torch.testing.assert_close(fast, slow)
    fast_grads = torch.autograd.grad((fast * weight).sum(), qkv)
    slow_grads = torch.autograd.grad((slow * weight).sum(), qkv)
    torch.testing.assert_close(fast_grads, slow_grads)


def test_tokens_see_nothing_outside_their_segment():
    q, k, v = torch.randn(3, 9, 2, 8).unbind()
    segments = Segments.from_lengths([4, 5])
    before = segment_attention(q, k, v, segments)
    k[4:], v[4:] = 100.0, torch.nan
    after = segment_attention(q, k, v, segments)
    torch.testing.assert_close(after[:4], before[:4], rtol=0, atol=0)


@pytest.mark.parametrize(
    ('capability', 'head_dim', 'dtype', 'lengths', 'expected'),
    [
        ((8, 0), 64, torch.bfloat16, [3, 4], True),
        ((7, 5), 64, torch.float16, [3, 4], False),  # Turing
        ((9, 0), 60, torch.bfloat16, [3, 4], False),
        ((9, 0), 64, torch.float32, [3, 4], False),
        ((9, 0), 64, torch.bfloat16, [4, 4], False),
    ],
)
def test_varlen_is_chosen_where_it_runs(
    monkeypatch, capability, head_dim, dtype, lengths, expected
):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    attention._has_flash_attention.cache_clear()
    q = SimpleNamespace(is_cuda=True, dtype=dtype, shape=(8, 2, head_dim), device='cuda')
    assert attention._varlen_runs(q, Segments.from_lengths(lengths)) == expected
    attention._has_flash_attention.cache_clear()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_varlen_equals_grouped_on_a_gpu(dtype):
    segments = Segments.from_lengths([33, 70, 70, 1])
    qkv = torch.randn(3, 174, 2, 64, device='cuda', dtype=dtype).unbind()
    varlen = segment_attention(*qkv, segments, 'varlen')
    grouped = segment_attention(*qkv, segments, 'grouped')
    torch.testing.assert_close(varlen, grouped, rtol=2e-2, atol=2e-2)


def test_an_empty_stream_keeps_the_parameters_in_the_graph():
    module = Attention(8, 2)
    module(torch.zeros(0, 8), Segments.from_lengths([])).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


def test_wrong_arguments_are_named():
    q = torch.zeros(4, 1, 8)
    with pytest.raises(ValueError, match='hold 3 tokens, the stream 4'):
        segment_attention(q, q, q, Segments.from_lengths([3]))
    with pytest.raises(ValueError, match="got 'flash'"):
        segment_attention(q, q, q, Segments.from_lengths([4]), 'flash')
    with pytest.raises(ValueError, match='10 channels .* 3 heads'):
        Attention(10, 3)


def test_dense_attention_is_that_of_pytorch():
    q, k, v = torch.randn(3, 2, 4, 7, 8)
    mask = torch.rand(2, 1, 7, 7) < 0.8
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(dense_attention(q, k, v, mask), expected, rtol=0, atol=0)


def test_a_fixed_order_is_needed_for_gradients_under_deterministic_algorithms_only():
    q = torch.zeros(1, requires_grad=True)
    assert not needs_fixed_order(q)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert needs_fixed_order(q.detach(), q)
        assert not needs_fixed_order(q.detach())
        with torch.no_grad():
            assert not needs_fixed_order(q)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('masked', [False, True])
def test_gradients_have_the_same_bits_in_every_run_on_a_gpu(masked):
    q = torch.randn(2, 8, 1098, 32, device='cuda', dtype=torch.bfloat16, requires_grad=True)
    mask = torch.rand(2, 1, 1098, 1098, device='cuda') > 0.2 if masked else None

    def gradient():
        loss = dense_attention(q, q, q, mask).float().square().sum()
        return torch.autograd.grad(loss, q)[0]

    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        first = gradient()
        assert all(torch.equal(gradient(), first) for _ in range(10))
    finally:
        torch.use_deterministic_algorithms(False)
