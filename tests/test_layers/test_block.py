import pytest
import torch

from mmdet_dinov2.layers import Block, SwiGLU, TokenLayout

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


@pytest.mark.parametrize('batch', [1, 2])
def test_expectation_over_the_draws_is_the_block_without_drops(batch):
    """Exact: the branches are linear in the draw, so four outcomes of one branch say it all."""
    block = make_block(drop_path_rate=0.25)
    torch.nn.init.zeros_(block.ls2.gamma)  # leaves the attention branch
    layout = TokenLayout(GRIDS[:batch], num_prefix=1)
    stream = torch.randn(sum(layout.lengths), 16)
    expected = torch.zeros_like(stream)
    for outcome in range(2**batch):
        kept = tuple(i for i in range(batch) if outcome >> i & 1)
        probability = 0.75 ** len(kept) * 0.25 ** (batch - len(kept))
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
