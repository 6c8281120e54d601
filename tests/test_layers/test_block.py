import socket

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mmdet_dinov2.benchmark.flops  # noqa: F401 (registers the operator)
from mmdet_dinov2.layers import Block, SwiGLU, TokenLayout
from mmdet_dinov2.layers.block import LinearGELU

from ..tiny import randomize

GRIDS = ((5, 4), (3, 7))
WINDOW = 3


def make_block(**kwargs):
    return randomize(Block(16, 2, 32, layer_scale=1.0, **kwargs))


def test_windows_equal_the_block_on_each_window_alone():
    block = make_block(windowed=True).eval()
    layout = TokenLayout(GRIDS, num_prefix=2, window_size=WINDOW)
    images = [torch.randn(16, *grid) for grid in GRIDS]
    prefixes = [torch.randn(2, 16) for _ in GRIDS]
    stream = torch.cat(
        [
            torch.cat((prefix, layout.to_stream_order(image.flatten(1).T, i)))
            for i, (prefix, image) in enumerate(zip(prefixes, images, strict=True))
        ]
    )
    out = block(stream, layout)
    maps = layout.to_maps(out, (5, 7))
    for i, (image, prefix) in enumerate(zip(images, prefixes, strict=True)):
        rows, cols = GRIDS[i]
        for top in range(0, rows, WINDOW):
            for left in range(0, cols, WINDOW):
                part = image[:, top : top + WINDOW, left : left + WINDOW]
                alone = TokenLayout((tuple(part.shape[1:]),), 0, WINDOW)
                expected = block(part.flatten(1).T, alone).T.view_as(part)
                got = maps[i, :, top : top + part.shape[1], left : left + part.shape[2]]
                torch.testing.assert_close(got, expected)
        start = sum(layout.lengths[:i])
        alone = TokenLayout(((2, 1),), 0, WINDOW)
        torch.testing.assert_close(out[start : start + 2], block(prefix, alone))


def test_swiglu_gates_with_the_first_half():
    ffn = randomize(SwiGLU(4, 6))
    x = torch.randn(3, 4)
    hidden = x @ ffn.w12.weight.T + ffn.w12.bias
    gate, value = hidden[:, :6], hidden[:, 6:]
    expected = (gate * torch.sigmoid(gate) * value) @ ffn.w3.weight.T + ffn.w3.bias
    torch.testing.assert_close(ffn(x), expected)


@pytest.mark.parametrize('shape', [(7,), (3, 5), (1, 1), (0,)])
def test_gelu_is_the_same_with_and_without_gradients(shape):
    layer = randomize(LinearGELU(12, 33))
    x = torch.randn(*shape, 12)

    def expected():
        return nn.functional.gelu(x @ layer.weight.T + layer.bias)

    torch.testing.assert_close(layer(x), expected())
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected())
        with torch.autocast('cpu', torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        layer, x = layer.double(), x.double()
        torch.testing.assert_close(layer(x), expected())


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason='torch without oneDNN')
def test_gelu_is_fused_where_no_gradient_is_needed():
    fused = torch.ops.mkldnn._linear_pointwise
    layer, x = randomize(LinearGELU(12, 33)), torch.randn(3, 5, 12)

    def operators():
        counter = FlopCounterMode(display=False)
        with counter:
            layer(x)
        assert counter.get_total_flops() == 2 * 15 * 12 * 33
        return counter.get_flop_counts()['Global']

    assert fused not in operators()
    with torch.no_grad():
        assert fused in operators()
        graph = torch.export.export(layer, (x,)).graph
    assert not any('mkldnn' in str(node.target) for node in graph.nodes)
    layer.requires_grad_(False)
    assert fused in operators()
    for needing in (layer.bias, x):
        needing.requires_grad_()
        assert fused not in operators()
        needing.requires_grad_(False)


def test_gelu_takes_weights_of_other_classes():
    class Quantized(torch.Tensor):
        """Knows linear layers only."""

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            assert 'pointwise' not in str(function)
            return super().__torch_function__(function, types, args, kwargs or {})

    layer, x = randomize(LinearGELU(12, 33)), torch.randn(3, 12)
    with torch.no_grad():
        expected = layer(x)
        layer.weight = nn.Parameter(layer.weight.as_subclass(Quantized), requires_grad=False)
        torch.testing.assert_close(layer(x).as_subclass(torch.Tensor), expected)


def test_dropped_images_pass_and_kept_ones_are_scaled():
    block = make_block(drop_path_rate=0.25)
    layout = TokenLayout(GRIDS, num_prefix=1)
    stream = torch.randn(sum(layout.lengths), 16)
    first = layout.lengths[0]
    out = block(stream, layout, kept=((1,), (1,)))
    torch.testing.assert_close(out[:first], stream[:first], rtol=0, atol=0)
    alone = layout.select([1])
    x = stream[first:]
    x = x + block.ls1(block.attn(block.norm1(x), alone.image_segments)) / 0.75
    x = x + block.ls2(block.mlp(block.norm2(x))) / 0.75
    torch.testing.assert_close(out[first:], x)


@pytest.mark.parametrize('batch', [1, 2, 4])
def test_images_are_dropped_at_the_rate_whatever_the_batch(batch):
    block = make_block(drop_path_rate=0.3).train()
    draws = [block.draw_kept(batch) for _ in range(3000)]
    share = sum(len(kept) for draw in draws for kept in draw) / (2 * batch * len(draws))
    assert abs(share - 0.7) < 0.02


@pytest.mark.parametrize('batch', [1, 2, 4])
def test_expectation_over_the_draws_is_the_block_without_drops(batch):
    """The equality is exact: with one branch, the block is linear in the draw."""
    block = make_block(drop_path_rate=0.25)
    torch.nn.init.zeros_(block.ls2.gamma)  # leaves the attention branch
    layout = TokenLayout((GRIDS * 2)[:batch], num_prefix=1)
    stream = torch.randn(sum(layout.lengths), 16)
    expected = torch.zeros_like(stream)
    for kept, probability in outcomes(batch):
        expected += probability * block(stream, layout, (kept, kept))
    torch.testing.assert_close(expected, block(stream, layout))


def test_nothing_is_drawn_in_eval_mode_or_at_rate_zero():
    assert make_block(drop_path_rate=0.5).eval().draw_kept(2) is None
    assert make_block().train().draw_kept(2) is None


def test_all_dropped_keeps_the_parameters_in_the_graph():
    block = make_block(drop_path_rate=0.5)
    layout = TokenLayout(GRIDS, num_prefix=1)
    stream = torch.randn(sum(layout.lengths), 16)
    out = block(stream, layout, kept=((), ()))
    torch.testing.assert_close(out, stream, rtol=0, atol=0)
    out.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in block.parameters())


def outcomes(num_images, rate=0.25):
    """Yields all sets of kept images with their probabilities."""
    for outcome in range(2**num_images):
        kept = tuple(i for i in range(num_images) if outcome >> i & 1)
        yield kept, (1 - rate) ** len(kept) * rate ** (num_images - len(kept))


@pytest.mark.parametrize('batch', [1, 2, 4])
def test_expected_cost_falls_by_the_drop_rate(batch):
    """The cost is the operations of linear layers and attention, on images of equal size."""
    block = make_block(drop_path_rate=0.25)
    layout = TokenLayout(((5, 4),) * batch, num_prefix=1)
    stream = torch.randn(sum(layout.lengths), 16)

    def cost(kept):
        with FlopCounterMode(display=False) as counter:
            block(stream, layout, kept)
        return counter.get_total_flops()

    expected = sum(p * cost((kept, kept)) for kept, p in outcomes(batch))
    assert expected == pytest.approx(0.75 * cost(None), rel=1e-6)


def test_a_kept_image_costs_and_gives_what_it_does_alone():
    block = make_block(drop_path_rate=0.25)
    layout = TokenLayout(GRIDS, num_prefix=1)
    stream = torch.randn(sum(layout.lengths), 16)
    start = 0
    for image, length in enumerate(layout.lengths):
        own = stream[start : start + length]
        with FlopCounterMode(display=False) as together:
            out = block(stream, layout, ((image,), (image,)))
        with FlopCounterMode(display=False) as alone:
            expected = block(own, layout.select([image]), ((0,), (0,)))
        torch.testing.assert_close(out[start : start + length], expected)
        assert together.get_total_flops() == alone.get_total_flops() > 0
        start += length


def _expected_gradients_on_a_rank(rank, port, queue):
    """Sums gradients of DDP over all draws of two ranks with two images each, by probability."""
    dist.init_process_group('gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    block, layouts, streams, weights = two_ranks()
    parallel = nn.parallel.DistributedDataParallel(block)

    def gradients(kept):
        block.zero_grad()
        (parallel(streams[rank], layouts[rank], kept) * weights[rank]).sum().backward()
        return attention_gradients(block)

    total = 0
    for kept, probability in outcomes(4):
        own = tuple(i - 2 * rank for i in kept if i // 2 == rank)
        # In some draws all images of a rank are dropped. It still takes part in the reduction.
        total = total + probability * gradients((own, own))
    if rank == 0:
        queue.put((total.tolist(), gradients(None).tolist()))
    else:
        gradients(None)
    dist.destroy_process_group()


def two_ranks():
    """Returns a block with nothing but its attention branch, and the inputs of two ranks."""
    torch.manual_seed(0)
    block = make_block(drop_path_rate=0.25)
    nn.init.zeros_(block.ls2.gamma)
    layouts = [TokenLayout(grids, num_prefix=1) for grids in (GRIDS, ((2, 2), (6, 3)))]
    streams = [torch.randn(sum(layout.lengths), 16) for layout in layouts]
    return block, layouts, streams, [torch.randn_like(stream) for stream in streams]


def attention_gradients(block):
    """Returns the gradients that are linear in the draw."""
    modules = (block.norm1, block.attn, block.ls1)
    return torch.cat([p.grad.flatten() for module in modules for p in module.parameters()])


@pytest.mark.slow
def test_expected_gradients_on_two_ranks_are_those_without_drops():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    # Forked from a process that has already imported this module.
    context = torch.multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([__name__])
    queue = context.SimpleQueue()
    processes = torch.multiprocessing.start_processes(
        _expected_gradients_on_a_rank,
        (port, queue),
        nprocs=2,
        join=False,
        start_method='forkserver',
    )
    expected, undropped = (torch.tensor(values) for values in queue.get())
    processes.join()
    torch.testing.assert_close(expected, undropped, rtol=1e-4, atol=1e-5)
    # One process with all four images; DDP averages over the ranks.
    block, layouts, streams, weights = two_ranks()
    for layout, stream, weight in zip(layouts, streams, weights, strict=True):
        (block(stream, layout) * weight).sum().backward()
    torch.testing.assert_close(expected, attention_gradients(block) / 2, rtol=1e-4, atol=1e-5)
