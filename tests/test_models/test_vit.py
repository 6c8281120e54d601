"""What both families of backbones have in common: sizes, padding, windows, freezing, depths."""

import pytest
import torch
from mmdet.registry import MODELS

from ..tiny import ARCH, backbone_cfg, pad_batch, tiny_backbone

SIZES = [(60, 45), (29, 101)]
FAMILIES = ('DINOv2', 'DINOv3')
# Parts before the first block.
EMBEDDINGS = ('cls_token', 'pos_embed', 'register_tokens', 'patch_embed')


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.mark.parametrize('size', [(56, 56), (57, 30), (14, 99), (13, 1)])
@pytest.mark.parametrize('window_size', [0, 2])
def test_every_size_is_padded_up_to_the_patch(family, size, window_size):
    windows = dict(window_size=window_size, global_attn_indexes=(1, 3)) if window_size else {}
    out = tiny_backbone(family, **windows)(torch.randn(2, 3, *size))
    assert [o.shape for o in out] == [(2, 32, -(-size[0] // 14), -(-size[1] // 14))]


def test_features_are_normalised_by_the_final_norm(family):
    model = tiny_backbone(family).eval()
    torch.nn.init.ones_(model.norm.weight)
    torch.nn.init.zeros_(model.norm.bias)
    (out,) = model(torch.randn(1, 3, 42, 56))
    torch.testing.assert_close(out.mean(1), torch.zeros(1, 3, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(1, unbiased=False), torch.ones(1, 3, 4), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(num_registers=4),
        dict(patch_size=16),
        dict(window_size=2, global_attn_indexes=(3,), num_registers=1),
        dict(window_size=3, global_attn_indexes=(1, 3), num_registers=4, drop_path_rate=0.5),
    ],
)
def test_features_do_not_depend_on_batch_mates(family, options):
    model = tiny_backbone(family, **options).train('drop_path_rate' in options)
    images = [torch.randn(3, *size) for size in SIZES]
    seeds = [3, 4]
    (batched,) = model(pad_batch(images, (210, 230)), img_shapes=SIZES, sample_seeds=seeds)
    for image, got, seed in zip(images, batched, seeds, strict=True):
        (alone,) = model(image[None], sample_seeds=[seed])
        rows, cols = alone.shape[-2:]
        torch.testing.assert_close(got[:, :rows, :cols], alone[0], rtol=1e-5, atol=1e-5)
        assert got.count_nonzero() == alone.count_nonzero()


def test_without_image_shapes_padding_is_part_of_the_image():
    model = tiny_backbone().eval()
    image = torch.randn(3, 28, 28)
    (padded,) = model(pad_batch([image], (56, 56), fill=0.0))
    (alone,) = model(image[None])
    assert (padded[0, :, :2, :2] - alone[0]).abs().max() > 1e-2


def test_all_blocks_global_equals_no_windows_exactly(family):
    plain = tiny_backbone(family)
    windowed = tiny_backbone(family, window_size=2, global_attn_indexes=(0, 1, 2, 3))
    windowed.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 70, 42)
    torch.testing.assert_close(windowed(images)[0], plain(images)[0], rtol=1e-5, atol=1e-5)


def test_windows_change_the_features(family):
    plain = tiny_backbone(family)
    windowed = tiny_backbone(family, window_size=2, global_attn_indexes=(3,))
    windowed.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 70, 42)
    assert (windowed(images)[0] - plain(images)[0]).abs().max() > 1e-2


def test_out_indices_count_from_either_end(family):
    model = tiny_backbone(family, out_indices=(0, -2, -1)).eval()
    streams = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, output: streams.append(output))
    outs = model(torch.randn(1, 3, 28, 42))
    assert len(outs) == 3
    for out, index in zip(outs, (0, 2, 3), strict=True):
        patches = model.norm(streams[index])[1:]
        assert torch.equal(out, patches.T.view(1, 32, 2, 3))
    assert not torch.allclose(outs[1], outs[2])


def test_intermediate_features_are_those_of_a_shorter_model(family):
    model = tiny_backbone(family, out_indices=(1, 3)).eval()
    shorter = tiny_backbone(family, arch=dict(ARCH, num_layers=2)).eval()
    state = {
        k: v for k, v in model.state_dict().items() if not k.startswith(('blocks.2', 'blocks.3'))
    }
    shorter.load_state_dict(state)
    images = torch.randn(1, 3, 42, 42)
    torch.testing.assert_close(model(images)[0], shorter(images)[0])


@pytest.mark.parametrize(
    ('frozen_stages', 'frozen'),
    [
        (-1, ()),
        (0, EMBEDDINGS),
        (2, (*EMBEDDINGS, 'blocks.0', 'blocks.1')),
        ('all', ('',)),
    ],
)
def test_frozen_parameters_by_name(family, frozen_stages, frozen):
    model = tiny_backbone(family, frozen_stages=frozen_stages, num_registers=2, drop_path_rate=0.5)
    model.train()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith(tuple(frozen)), name
    for name, module in model.named_modules():
        if name and name not in ('blocks', 'rope_embed'):
            assert module.training != name.startswith(tuple(frozen)), name
    out = model(torch.randn(2, 3, 28, 28))[0]
    assert out.requires_grad == (frozen_stages != 'all')
    if out.requires_grad:
        out.sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (not name.startswith(tuple(frozen))), name


def test_frozen_blocks_build_no_graph(family, monkeypatch):
    model = tiny_backbone(family, frozen_stages=2).train()
    grad_modes = []
    for block in model.blocks:
        block.register_forward_hook(lambda *args: grad_modes.append(torch.is_grad_enabled()))
    model(torch.randn(1, 3, 28, 28))
    assert grad_modes == [False, False, True, True]


def test_a_frozen_backbone_gives_the_same_features_in_training(family):
    model = tiny_backbone(family, frozen_stages='all', drop_path_rate=0.9)
    images = torch.randn(4, 3, 28, 28)
    torch.testing.assert_close(model.train()(images), model.eval()(images), rtol=0, atol=0)


@pytest.mark.parametrize('drop_path_rate', [0.0, 0.5])
def test_checkpointing_gives_the_same_gradients(family, drop_path_rate):
    plain = tiny_backbone(family, drop_path_rate=drop_path_rate)
    saving = tiny_backbone(family, drop_path_rate=drop_path_rate, with_cp=True)
    saving.load_state_dict(plain.state_dict())
    images = torch.randn(3, 3, 42, 28)
    for model in (plain, saving):
        torch.manual_seed(1)
        model.train()(images)[0].square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_stochastic_depth_grows_from_zero():
    rates = [block.drop_path_rate for block in tiny_backbone(drop_path_rate=0.3).blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_layer_depth(family):
    model = tiny_backbone(family, num_registers=1)
    depths = {
        name: model.get_layer_depth(f'backbone.{name}', 'backbone.')
        for name, _ in model.named_parameters()
    }
    assert {depth[1] for depth in depths.values()} == {6}
    first = {name for name, (depth, _) in depths.items() if not depth}
    assert first == {name for name in depths if name.startswith(EMBEDDINGS)} and len(first) >= 4
    assert depths['blocks.0.norm1.weight'][0] == 1
    assert depths['blocks.3.ls2.gamma'][0] == 4
    assert depths['norm.bias'][0] == 5
    with pytest.raises(ValueError, match="'neck.x' does not start with 'backbone.'"):
        model.get_layer_depth('neck.x', 'backbone.')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch='medium'), r"arch='medium' is not a published size.*'base'.*'small'"),
        (dict(arch=dict(ARCH, depth=3)), r"unknown \['depth'\]"),
        (dict(arch={'embed_dims': 8}), r"missing \['feedforward_channels'"),
        (dict(arch=dict(ARCH, ffn='moe')), "got 'moe'"),
        (dict(arch=dict(ARCH, num_heads=5)), 'embed_dims=32 .* num_heads=5'),
        (dict(arch=dict(ARCH, ffn='mlp', norm=1)), r'may have layer_scale and qkv_bias'),
        (dict(window_size=14), 'window_size=14 needs global_attn_indexes'),
        (dict(global_attn_indexes=(1,)), 'needs a window_size'),
        (dict(window_size=-1), 'window_size=-1'),
        (dict(window_size=2, global_attn_indexes=(4,)), r'holds 4, but the 4 blocks'),
        (dict(out_indices=(5,)), r'out_indices holds 5'),
        (dict(out_indices=()), 'at least one block'),
        (dict(frozen_stages=5), 'frozen_stages=5'),
        (dict(frozen_stages='none'), "frozen_stages='none'"),
        (dict(frozen_dtype='bfloat16'), 'frozen_dtype=.bfloat16. needs a frozen part'),
        (dict(frozen_stages=1, frozen_dtype='half'), "'float32' or 'bfloat16', got 'half'"),
        (dict(patch_size=0), 'patch_size must be a positive'),
        (dict(drop_path_rate=1.0), 'drop_path_rate=1.0'),
        (dict(num_registers=-1), 'num_registers=-1'),
    ],
)
def test_wrong_arguments_are_named(family, options, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(backbone_cfg(family, **options))


@pytest.mark.parametrize(
    ('shapes', 'message'),
    [([(20, 20)], '1 entries for 2 images'), ([(20, 20), (20, 29)], r'img_shapes\[1\]=\(20, 29\)')],
)
def test_wrong_image_shapes_are_named(shapes, message):
    with pytest.raises(ValueError, match=message):
        tiny_backbone()(torch.zeros(2, 3, 28, 28), img_shapes=shapes)


def test_the_caller_keeps_its_config(family):
    cfg = backbone_cfg(family, arch=dict(ARCH), out_indices=[-1])
    before = {key: value.copy() if isinstance(value, dict) else value for key, value in cfg.items()}
    MODELS.build(cfg)
    assert cfg == before


def test_stochastic_depth_of_an_image_follows_its_seed(family):
    model = tiny_backbone(family, drop_path_rate=0.5).train()
    images = torch.randn(3, 3, 56, 56)
    seeds = [11, 12, 13]
    (together,) = model(images, sample_seeds=seeds)
    torch.rand(5)  # the global random state does not matter
    for i, seed in enumerate(seeds):
        (alone,) = model(images[i : i + 1], sample_seeds=[seed])
        torch.testing.assert_close(alone[0], together[i])
    (other,) = model(images, sample_seeds=[14, 15, 16])
    assert not torch.allclose(other, together)


@pytest.mark.parametrize('qkv_bias', [False, True])
@pytest.mark.parametrize('ffn', ['mlp', 'swiglu'])
def test_own_sizes_have_what_the_arch_says(family, qkv_bias, ffn):
    model = tiny_backbone(family, arch=dict(ARCH, ffn=ffn, qkv_bias=qkv_bias)).eval()
    assert ('blocks.0.attn.qkv.bias' in model.state_dict()) == qkv_bias
    assert ('blocks.0.mlp.w12.weight' in model.state_dict()) == (ffn == 'swiglu')
    model.init_weights()
    assert torch.isfinite(model(torch.randn(1, 3, 28, 42))[0]).all()
