import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

from mmdet_dinov2.layers import deformable_attention, deformable_attention_pytorch, triton_problem

from ..reference.deformable_attention import slow_deformable_attention
from .sampling import SHAPES, sampling_inputs, stream_inputs, with_gradients


@pytest.fixture(params=['dense', 'sparse'])
def _both(request, monkeypatch):
    """Runs a test with the dense and with the sparse matrix, whatever the number of cells."""
    cells = 10**6 if request.param == 'dense' else 0
    monkeypatch.setattr(deformable_attention_pytorch, '_MAX_DENSE_CELLS', cells)


@pytest.mark.usefixtures('_both')
def test_equals_the_definition_with_gradients():
    inputs = sampling_inputs(dtype=torch.float64)
    value, _, locations, weights = inputs
    slow = slow_deformable_attention(value, SHAPES, locations, weights)
    fast = deformable_attention(*inputs)
    torch.testing.assert_close(with_gradients(fast, inputs), with_gradients(slow, inputs))


@pytest.mark.usefixtures('_both')
def test_gradcheck():
    value, shapes, locations, weights = sampling_inputs(
        batch=1, dim=3, shapes=[(3, 2), (2, 2)], dtype=torch.float64
    )
    assert torch.autograd.gradcheck(
        lambda v, x, w: deformable_attention(v, shapes, x, w), (value, locations, weights)
    )


@pytest.mark.usefixtures('_both')
@pytest.mark.parametrize('at_once', [1, 2**22])
def test_equals_mmcv(monkeypatch, at_once):
    """Image by image and all together."""
    monkeypatch.setattr(deformable_attention_pytorch, '_ENTRIES_AT_ONCE', dict(cpu=at_once))
    inputs = sampling_inputs(batch=3, queries=37, heads=3, dim=5, shapes=[(9, 14), (5, 7), (3, 4)])
    theirs = multi_scale_deformable_attn_pytorch(*inputs)
    ours = deformable_attention(*inputs)
    torch.testing.assert_close(
        with_gradients(ours, inputs), with_gradients(theirs, inputs), rtol=1e-4, atol=1e-4
    )


# Two of one size, so that some images share a product.
STREAM = [[(2, 3), (1, 2)], [(4, 1), (2, 1)], [(4, 1), (2, 1)], [(5, 4), (3, 2)]]


@pytest.mark.usefixtures('_both')
@pytest.mark.parametrize('queries', [[2, 3, 3, 1], [2, 0, 5, 1], [2, 3, 3, 0], [0, 0, 0, 2]])
@pytest.mark.parametrize('at_once', [1, 150, 2**22])
def test_images_of_a_stream_do_not_see_each_other(monkeypatch, queries, at_once):
    monkeypatch.setattr(deformable_attention_pytorch, '_ENTRIES_AT_ONCE', dict(cpu=at_once))
    value, shapes, locations, weights, images = stream_inputs(STREAM, queries)
    inputs = (value, locations, weights)
    together = with_gradients(
        deformable_attention(value, shapes, locations, weights, query_images=images), inputs
    )
    cells = shapes.prod(2).sum(1).tolist()
    parts = zip(
        value.split(cells), STREAM, locations.split(queries), weights.split(queries), strict=True
    )
    alone = torch.cat(
        [slow_deformable_attention(v[None], s, x[None], w[None])[0] for v, s, x, w in parts]
    )
    torch.testing.assert_close(together, with_gradients(alone, inputs))


def test_some_images_may_be_dense_and_others_sparse(monkeypatch):
    value, shapes, locations, weights, images = stream_inputs(STREAM, [2, 3, 3, 4])
    inputs = (value, shapes, locations, weights)
    results = []
    for limit in (0, 7, 8):  # none, the two in the middle, the first three
        monkeypatch.setattr(deformable_attention_pytorch, '_MAX_DENSE_CELLS', limit)
        output = deformable_attention(*inputs, query_images=images)
        results.append(with_gradients(output, inputs))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])


@pytest.mark.usefixtures('_both')
@pytest.mark.parametrize('number', [float('nan'), float('inf'), -float('inf')])
def test_non_finite_locations_affect_their_query_alone(number):
    value, shapes, locations, weights = sampling_inputs(queries=4)
    locations = locations.detach().clone()
    locations[0, 1, 0, 0, 0, 0] = number
    output = deformable_attention(value, shapes, locations.requires_grad_(), weights)
    finite = output.isfinite().all(-1)
    assert not finite[0, 1] and finite.sum() == finite.numel() - 1
    output.nan_to_num().sum().backward()  # no index is out of range


@pytest.mark.usefixtures('_both')
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_low_precision_rounds_nothing_but_values(dtype):
    inputs = sampling_inputs(queries=40, dim=8, value_dtype=dtype)
    got = with_gradients(deformable_attention(*inputs), inputs)
    exact_inputs = [t.detach().double() if t.is_floating_point() else t for t in inputs]
    exact_inputs = [t.requires_grad_() if t.is_floating_point() else t for t in exact_inputs]
    output = deformable_attention(*exact_inputs)
    # with_gradients rounds its direction to the dtype of the output.
    direction = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape)
    leaves = [t for t in exact_inputs if t.requires_grad]
    exact = (output, *torch.autograd.grad(output, leaves, direction.to(dtype).double()))
    assert [t.dtype for t in got] == [dtype, dtype, torch.float32, torch.float32]
    for a, b, tolerance in zip(got, exact, [torch.finfo(dtype).eps] * 2 + [1e-5] * 2, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=1e-4 * tolerance**0.5)


@pytest.mark.usefixtures('_both')
def test_few_and_no_queries_and_images():
    inputs = sampling_inputs(queries=1, batch=1)
    value, _, locations, weights = inputs
    slow = slow_deformable_attention(value, SHAPES, locations, weights)
    torch.testing.assert_close(deformable_attention(*inputs), slow)
    for empty in (dict(queries=0), dict(batch=0)):
        inputs = sampling_inputs(**empty)
        output, *grads = with_gradients(deformable_attention(*inputs), inputs)
        assert output.numel() == 0
        assert all(not grad.any() for grad in grads)


@pytest.mark.usefixtures('_both')
def test_results_are_the_same_bits_in_every_run():
    inputs = sampling_inputs(queries=300, dim=8)
    first = with_gradients(deformable_attention(*inputs), inputs)
    again = with_gradients(deformable_attention(*inputs), inputs)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.usefixtures('_both')
def test_points_far_outside_count_as_zero():
    value, shapes, locations, weights = sampling_inputs()
    with torch.no_grad():
        locations.copy_(torch.tensor([1e30, -1e30])[torch.randint(2, locations.shape)])
    inputs = (value, shapes, locations, weights)
    for result in with_gradients(deformable_attention(*inputs), inputs):
        assert torch.isfinite(result).all() and not result.any()


def test_is_an_operator_that_torch_knows():
    """Schema, shapes for the compiler, gradients."""
    value, shapes, locations, weights, images = stream_inputs(STREAM, [2, 3, 3, 1])
    torch.library.opcheck(
        torch.ops.mmdet_dinov2.deformable_attention.default,
        (value, shapes, images, locations, weights, 'pytorch'),
    )


def test_is_compiled_once_for_all_sizes():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(deformable_attention, backend=counter, dynamic=True, fullgraph=True)
    for i in range(5):
        inputs = sampling_inputs(
            batch=5 + i, queries=7 + i, shapes=[(4 + i, 5 + 2 * i), (2, 3 + i)]
        )
        expected = with_gradients(deformable_attention(*inputs), inputs)
        torch.testing.assert_close(with_gradients(compiled(*inputs), inputs), expected)
    assert counter.frame_count == 1


@pytest.mark.parametrize('use_reentrant', [True, False])
def test_activations_can_be_recomputed(use_reentrant):
    inputs = sampling_inputs()
    kept = with_gradients(deformable_attention(*inputs), inputs)
    output = checkpoint(deformable_attention, *inputs, use_reentrant=use_reentrant)
    leaves = [t for t in inputs if t.requires_grad]
    direction = torch.linspace(-1, 1, output.numel()).view(output.shape)
    output.backward(direction)
    for leaf, expected in zip(leaves, kept[1:], strict=True):
        torch.testing.assert_close(leaf.grad, expected)


def test_wrong_arguments_are_named():
    value, shapes, locations, weights = sampling_inputs()
    with pytest.raises(ValueError, match=r'\[1, 2\]\]\] have 42 cells, but there are 40'):
        wrong = torch.tensor([(3, 5), (2, 2), (1, 2)])
        deformable_attention(value, wrong, locations, weights)
    with pytest.raises(ValueError, match=r'got \(2, 20, 2, 4\), \(2, 2\), \(2, 3, 2, 3, 2, 2\)'):
        deformable_attention(value, shapes[:2], locations, weights)
    with pytest.raises(ValueError, match="got 'cuda'"):
        deformable_attention(value, shapes, locations, weights, 'cuda')
    with pytest.raises(ValueError, match=r'torch.int64, torch.float32'):
        deformable_attention(value.long(), shapes, locations, weights)
    value, shapes, locations, weights, images = stream_inputs(STREAM, [1, 1, 1, 1])
    with pytest.raises(ValueError, match=r'ascending numbers of the 4 images, got \[3, 2, 1, 0\]'):
        deformable_attention(value, shapes, locations, weights, query_images=images.flip(0))
    with pytest.raises(ValueError, match=r'ascending numbers of the 4 images, got \[1, 2, 3, 4\]'):
        deformable_attention(value, shapes, locations, weights, query_images=images + 1)
    with pytest.raises(ValueError, match=r'query_images \(Q\); got .*, \(3\)$'):
        deformable_attention(value, shapes, locations, weights, query_images=images[:3])


def test_reasons_why_triton_cannot_run():
    assert 'not compute in float64' in triton_problem(torch.device('cuda'), torch.float64)
    assert 'not on meta' in triton_problem(torch.device('meta'), torch.float32)
