import pytest
import torch
import torch.nn.functional as F

from mmdet_dinov2.models import SimpleFeaturePyramid

from ..tiny import randomize


def make_neck(**kwargs):
    options = dict(in_channels=16, out_channels=8, scale_factors=(2.0, 1.0, 0.5), num_outs=4)
    return randomize(SimpleFeaturePyramid(**{**options, **kwargs})).eval()


def test_builds_with_its_defaults():
    outs = SimpleFeaturePyramid()(torch.randn(1, 768, 4, 6))
    assert [tuple(o.shape[1:]) for o in outs] == [
        (256, 16, 24),
        (256, 8, 12),
        (256, 4, 6),
        (256, 2, 3),
    ]


@pytest.mark.parametrize('size', [(5, 7), (4, 4), (1, 1)])
def test_level_sizes_round_up(size):
    outs = make_neck()((torch.randn(2, 16, *size),))
    expected = [tuple(-(-n * s // 4) for n in size) for s in (8, 4, 2, 1)]
    assert [tuple(o.shape[-2:]) for o in outs] == expected


@pytest.mark.parametrize(
    ('size', 'sizes'),
    [
        ((5, 7), [(10, 14), (5, 7), (2, 3), (1, 2)]),
        ((1, 6), [(2, 12), (1, 6), (1, 3), (1, 2)]),
    ],
)
def test_level_sizes_round_down(size, sizes):
    """The last level takes every second cell of the one before, as in detectron2."""
    neck = make_neck(pooling='floor')
    outs = neck(torch.randn(2, 16, *size))
    assert [tuple(o.shape[-2:]) for o in outs] == sizes
    assert [level for (level,) in neck.grids([size], 1)] == sizes


def test_levels_can_be_flattened_as_mmdet_does():
    """The detectors of mmdet call ``view`` on every level."""
    for level in make_neck()(torch.randn(2, 16, 5, 7)):
        assert level.view(2, 8, -1).shape[-1] == level.shape[-2] * level.shape[-1]


def test_grids_cover_every_part_of_the_image():
    grids = make_neck().grids([(40, 57), (1, 95)], 16)
    assert grids == [[(5, 8), (1, 12)], [(3, 4), (1, 6)], [(2, 2), (1, 3)], [(1, 1), (1, 2)]]


def test_strides():
    assert make_neck().strides(16) == (8, 16, 32, 64)
    assert SimpleFeaturePyramid().strides(14) == (3.5, 7, 14, 28)


def test_up_scaling_follows_vitdet():
    """Scale 4: transposed convolution, LN, GELU, transposed convolution."""
    neck = make_neck(scale_factors=(4.0,), num_outs=1)
    first, norm, act, second = neck.resamplers[0]
    x = torch.randn(1, 16, 3, 2)
    y = F.conv_transpose2d(x, first.weight, first.bias, stride=2)
    y = F.layer_norm(y.movedim(1, -1), (8,), norm.weight, norm.bias, 1e-6).movedim(-1, 1)
    y = F.conv_transpose2d(F.gelu(y), second.weight, second.bias, stride=2)
    torch.testing.assert_close(neck.resamplers[0](x), y)
    assert isinstance(act, torch.nn.GELU) and y.shape == (1, 4, 12, 8)


def test_convolutions_have_no_bias():
    names = [name for name, _ in make_neck().named_parameters() if name.endswith('.0.bias')]
    assert names == ['resamplers.0.0.bias']


def test_the_extra_level_is_every_second_cell():
    outs = make_neck()(torch.randn(1, 16, 6, 10))
    torch.testing.assert_close(outs[3], F.max_pool2d(outs[2], 1, stride=2))


@pytest.mark.parametrize('shape', [(40, 57), (33, 16), (1, 95)])
@pytest.mark.parametrize(
    'options', [{}, dict(pooling='floor', mapper_groups=2), dict(in_channels=(12, 16))]
)
def test_levels_do_not_depend_on_the_canvas(shape, options):
    neck = make_neck(**options)
    stride = 16
    rows, cols = (-(-n // stride) for n in shape)
    channels = options.get('in_channels', (16,))
    features = [torch.randn(1, n, rows, cols) for n in channels]
    small = [F.pad(f, (0, -cols % 4, 0, -rows % 4)) for f in features]
    large = [F.pad(f, (0, 20 - cols, 0, 16 - rows)) for f in features]
    alone = neck(small, img_shapes=[shape], stride=stride)
    batched = neck(large, img_shapes=[shape], stride=stride)
    for (valid,), a, b in zip(neck.grids([shape], stride), alone, batched, strict=True):
        torch.testing.assert_close(
            a[..., : valid[0], : valid[1]], b[..., : valid[0], : valid[1]], rtol=1e-5, atol=1e-5
        )
        assert a.count_nonzero() == b.count_nonzero() == 8 * valid[0] * valid[1]


def test_several_maps_are_joined():
    """A product with the channels of all maps, and LN, at each position; then a single map."""
    neck = make_neck(in_channels=(12, 4, 16))
    conv, norm = neck.fusion
    maps = [torch.randn(2, n, 5, 7) for n in (12, 4, 16)]
    cells = torch.cat(maps, 1).movedim(1, -1) @ conv.weight[..., 0, 0].T
    joined = F.layer_norm(cells, (16,), norm.weight, norm.bias, 1e-6).movedim(-1, 1)
    single = make_neck()
    left = single.load_state_dict(neck.state_dict(), strict=False)
    assert left.missing_keys == []
    assert set(left.unexpected_keys) == {'fusion.0.weight', 'fusion.1.weight', 'fusion.1.bias'}
    for got, expected in zip(neck(maps), single(joined), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match='backbone makes 2 maps, but in_channels .* names 3'):
        neck(maps[1:])


def test_the_mapper_normalises_each_image_by_its_own_cells():
    neck = make_neck(scale_factors=(1.0,), num_outs=1, mapper_groups=2)
    plain = make_neck(scale_factors=(1.0,), num_outs=1)
    plain.load_state_dict({n: t for n, t in neck.state_dict().items() if 'mappers' not in n})
    x = torch.randn(2, 16, 5, 6)
    shapes = [(48, 96), (80, 64)]
    (mapped,) = neck(x, img_shapes=shapes, stride=16)
    (level,) = plain(x, img_shapes=shapes, stride=16)
    conv, norm = neck.mappers[0]
    for got, image, (h, w) in zip(mapped, level, shapes):
        cells = conv(image[None, :, : h // 16, : w // 16])[0].unflatten(0, (2, 4))
        mean = cells.mean((1, 2, 3), keepdim=True)
        std = (cells.var((1, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
        expected = ((cells - mean) / std).flatten(0, 1) * norm.weight[:, None, None]
        expected = expected + norm.bias[:, None, None]
        torch.testing.assert_close(got[:, : h // 16, : w // 16], expected, rtol=1e-5, atol=1e-5)
        assert got.count_nonzero() == expected.count_nonzero()


def test_pooling_ignores_padding():
    neck = make_neck(scale_factors=(0.5,), num_outs=1)
    features = -1 - torch.rand(1, 16, 3, 3)  # below the zeros of the padding
    padded = F.pad(features, (0, 1, 0, 1))
    (got,) = neck(padded, img_shapes=[(48, 48)], stride=16)
    (alone,) = neck(features)
    torch.testing.assert_close(got, alone)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(scale_factors=(3.0,)), 'powers of two'),
        (dict(scale_factors=(0.0,)), 'powers of two'),
        (dict(scale_factors=()), 'at least one scale'),
        (dict(num_outs=2), 'num_outs=2 is less than the 3 scale_factors'),
        (dict(norm_cfg=dict(type='GN', num_groups=4)), "must be dict\\(type='LN'\\)"),
        (dict(pooling='round'), "pooling must be one of .*, got 'round'"),
        (dict(in_channels=6, scale_factors=(4.0,)), 'in_channels=6 cannot be halved'),
        (dict(in_channels=()), 'in_channels must name the channels of at least one map'),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_neck(**options)


def test_image_shapes_need_a_stride():
    with pytest.raises(ValueError, match='need the stride of the input, got stride=None'):
        make_neck()(torch.zeros(1, 16, 4, 4), img_shapes=[(4, 4)])
