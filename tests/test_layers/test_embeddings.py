import pytest
import torch
import torch.nn.functional as F

from mmdet_dinov2.layers import (
    PatchEmbed,
    extract_patches,
    interpolate_pos_embed,
    padding_mask,
    resample_patch_kernel,
    valid_cells,
)

from ..reference.bicubic import slow_bicubic


@pytest.mark.parametrize('size', [(14, 14), (15, 29), (1, 50), (28, 13)])
def test_patches_equal_a_convolution_on_the_padded_image(size):
    embed = PatchEmbed(14, 3, 8)
    image = torch.randn(2, 3, *size)
    padded = F.pad(image, (0, -size[1] % 14, 0, -size[0] % 14))
    expected = F.conv2d(padded, embed.proj.weight, embed.proj.bias, stride=14)
    tokens = embed(extract_patches(image, 14))
    torch.testing.assert_close(tokens.permute(0, 3, 1, 2), expected)


@pytest.mark.parametrize('patch_size', [8, 16, 20])
def test_the_response_to_a_constant_image_stays(patch_size):
    kernel = torch.randn(6, 3, 14, 14)
    resampled = resample_patch_kernel(kernel, patch_size)
    assert resampled.shape == (6, 3, patch_size, patch_size)
    torch.testing.assert_close(resampled.sum((2, 3)), kernel.sum((2, 3)), rtol=1e-4, atol=1e-4)


def test_the_response_to_enlarged_patches_is_that_to_the_patches():
    kernel, patches = torch.randn(6, 3, 14, 14), torch.randn(5, 3, 14, 14)
    enlarged = F.interpolate(patches, size=(16, 16), mode='bicubic', antialias=True)
    expected = torch.einsum('ochw,nchw->no', kernel, patches)
    got = torch.einsum('ochw,nchw->no', resample_patch_kernel(kernel, 16), enlarged)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_the_same_patch_size_returns_the_kernel():
    kernel = torch.randn(2, 3, 14, 14)
    assert resample_patch_kernel(kernel, 14) is kernel


@pytest.mark.parametrize('size', [(5, 9), (3, 2), (12, 7)])
@pytest.mark.parametrize('offset', [0.0, 0.1])
def test_positions_equal_bicubic_interpolation_by_definition(size, offset):
    pos_embed = torch.randn(1, 36, 4)
    got = interpolate_pos_embed(pos_embed, size, antialias=False, offset=offset)
    scale = tuple((n + offset) / 6 for n in size)
    expected = slow_bicubic(pos_embed[0].view(6, 6, 4), size, scale)
    torch.testing.assert_close(got.view(*size, 4).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('antialias', [False, True])
@pytest.mark.parametrize('size', [(5, 9), (3, 2)])
def test_gradients_of_positions_are_those_of_interpolating_in_two_dimensions(size, antialias):
    pos_embed = torch.randn(1, 36, 4, requires_grad=True)
    weight = torch.randn(size[0] * size[1], 4)
    got = torch.autograd.grad(
        (interpolate_pos_embed(pos_embed, size, antialias, 0.0) * weight).sum(), pos_embed
    )[0]
    grid = pos_embed.view(1, 6, 6, 4).permute(0, 3, 1, 2)
    maps = F.interpolate(grid, size=size, mode='bicubic', antialias=antialias)
    expected = torch.autograd.grad((maps[0].flatten(1).T * weight).sum(), pos_embed)[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_positions_stay_in_fp32_under_autocast():
    pos_embed = torch.randn(1, 36, 4)
    expected = interpolate_pos_embed(pos_embed, (5, 7), False, 0.1)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got = interpolate_pos_embed(pos_embed, (5, 7), False, 0.1)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_positions_of_the_published_grid_are_untouched():
    pos_embed = torch.randn(1, 36, 4)
    got = interpolate_pos_embed(pos_embed, (6, 6), antialias=False, offset=0.1)
    torch.testing.assert_close(got, pos_embed[0], rtol=0, atol=0)


def test_antialiasing_matters_only_when_the_grid_shrinks_much():
    pos_embed = torch.randn(1, 36, 4)
    plain, smooth = (interpolate_pos_embed(pos_embed, (2, 2), aa, 0.0) for aa in (False, True))
    assert (plain - smooth).abs().max() > 0.1


def test_positions_are_interpolated_in_fp32():
    pos_embed = torch.randn(1, 36, 4, dtype=torch.bfloat16)
    assert interpolate_pos_embed(pos_embed, (5, 5), False, 0.1).dtype == torch.float32


def test_wrong_grids_are_named():
    with pytest.raises(ValueError, match='got 35 of them'):
        interpolate_pos_embed(torch.zeros(1, 35, 4), (5, 5), False, 0.0)
    with pytest.raises(ValueError, match='pos_embed_offset=1.5'):
        interpolate_pos_embed(torch.zeros(1, 36, 4), (5, 5), False, 1.5)


def test_valid_cells_round_up():
    assert valid_cells([(56, 57), (1, 14)], 14) == [(4, 5), (1, 1)]
    assert valid_cells([(10, 11)], 3.5) == [(3, 4)]


def test_padding_mask_is_true_outside_the_valid_cells():
    mask = padding_mask([(1, 2), (2, 3)], (2, 3), torch.device('cpu'))
    assert mask.tolist() == [[[False, False, True], [True] * 3], [[False] * 3, [False] * 3]]
    assert padding_mask([(2, 3)], (2, 3), torch.device('cpu')) is None


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_positions_while_pytorch_traces():
    """Sizes are tensors then, as in mmdet's count of operations."""
    pos_embed = torch.randn(1, 36, 4)

    def interpolate(embedding):
        return interpolate_pos_embed(embedding, (3, 4), False, 0.1)

    traced = torch.jit.trace(interpolate, pos_embed)
    torch.testing.assert_close(traced(pos_embed), interpolate(pos_embed))
