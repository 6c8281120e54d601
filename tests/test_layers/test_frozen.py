"""Frozen weights in bf16 behave like the fp32 weights that they were rounded from."""

import copy

import pytest
import torch

from mmdet_dinov2.models import DINOv2, DINOv3

from ..tiny import randomize, tiny_backbone

MATRICES = 'patch_embed.proj', 'attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2'


@pytest.fixture
def images():
    return torch.randn(2, 3, 60, 80)


@pytest.fixture(
    params=[('DINOv2', 'all'), ('DINOv2', 2), ('DINOv2', 0), ('DINOv3', 'all'), ('DINOv3', 2)],
    ids=lambda param: '-'.join(map(str, param)),
)
def pair(request):
    """Builds the same backbone with fp32 and with bf16 weights in its frozen part."""
    family, frozen_stages = request.param
    plain = tiny_backbone(family, frozen_stages=frozen_stages)
    held = tiny_backbone(family, frozen_stages=frozen_stages, frozen_dtype='bfloat16')
    held.load_state_dict(plain.state_dict())
    plain.can_hold = False  # under autocast either
    return plain, held


def assert_same_state(model, expected):
    state = model.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert state[name].dtype == torch.float32 and torch.equal(state[name], tensor), name


def test_features_and_gradients_are_those_under_autocast_to_the_bit(pair, images):
    plain, held = pair
    results = []
    for model in pair:
        with torch.autocast('cpu', torch.bfloat16):
            (out,) = model.train()(images)
        if out.requires_grad:
            out.square().sum().backward()
        results.append([out, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(results[0]) == len(results[1])
    for first, second in zip(*results, strict=True):
        assert first.dtype == second.dtype and torch.equal(first, second)
    assert_same_state(held, plain.state_dict())


def test_without_autocast_the_frozen_part_computes_in_bf16(images):
    held = tiny_backbone(frozen_stages='all', frozen_dtype='bfloat16').eval()
    (out,) = held(images)
    with torch.autocast('cpu', torch.bfloat16):
        (expected,) = held(images)
    assert out.dtype == torch.float32 and torch.equal(out, expected)


def test_training_under_autocast_holds_and_evaluation_in_fp32_releases(images):
    model = tiny_backbone(frozen_stages=2)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (expected,) = model.eval()(images)
    weight = model.blocks[0].attn.qkv.weight
    with torch.autocast('cpu', torch.bfloat16):
        with torch.no_grad():
            (whole,) = model(images)
        assert weight.dtype == torch.float32
        (held,) = model.train()(images)
    assert weight.dtype == torch.bfloat16 and torch.equal(held, whole)
    assert model.blocks[3].attn.qkv.weight.dtype == torch.float32
    assert_same_state(model, state)
    (after,) = model.eval()(images)
    assert weight.dtype == torch.float32 and torch.equal(after, expected)
    model.can_hold = False
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(model.train()(images)[0], held)
    assert weight.dtype == torch.float32


def test_matrices_of_frozen_layers_are_held(pair, images):
    _, held = pair
    held(images)
    frozen = held.num_frozen_blocks
    bf16 = {name for name, p in held.named_parameters() if p.dtype == torch.bfloat16}
    expected = {
        name
        for name, p in held.named_parameters()
        if any(matrix in name for matrix in MATRICES)
        and not (name.startswith('blocks.') and int(name.split('.')[1]) >= frozen)
    }
    assert bf16 == expected


@pytest.mark.parametrize(
    ('family', 'arch'), [(DINOv2, 'small'), (DINOv2, 'giant'), (DINOv3, 'small'), (DINOv3, '7b')]
)
def test_published_sizes_need_about_half(family, arch):
    with torch.device('meta'):
        model = family(arch, frozen_stages='all', frozen_dtype='bfloat16')
        matrices = sum(parameter.numel() for _, parameter in model._frozen_matrices())
    total = sum(parameter.numel() for parameter in model.parameters())
    assert 0.97 < matrices / total < 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_memory_of_the_gpu_is_halved():
    images = torch.randn(1, 3, 56, 56, device='cuda')
    used = {}
    for dtype in ('float32', 'bfloat16'):
        before = torch.cuda.memory_allocated()
        model = randomize(DINOv2('small', frozen_stages='all', frozen_dtype=dtype)).cuda()
        model(images)
        used[dtype] = torch.cuda.memory_allocated() - before
        del model
    assert used['bfloat16'] < 0.55 * used['float32']


def test_loading_a_state_replaces_the_held_weights(pair, images):
    _, held = pair
    before = held(images)[0]
    other = tiny_backbone(type(held).__name__)
    held.load_state_dict(other.state_dict())
    assert_same_state(held, other.state_dict())
    after = held(images)[0]
    assert not torch.equal(before, after)
    with torch.autocast('cpu', torch.bfloat16):
        reference = other.eval()(images)[0]
    if held.all_frozen:
        assert torch.equal(after, reference)
    assert_same_state(held, other.state_dict())


def test_a_failed_load_keeps_the_weights(pair, images):
    _, held = pair
    held(images)
    expected = {name: tensor.clone() for name, tensor in held.state_dict().items()}
    with pytest.raises(RuntimeError, match='Missing key'):
        held.load_state_dict({})
    assert_same_state(held, expected)


def test_conversions_start_from_the_originals(pair, images):
    plain, held = pair
    expected = plain.state_dict()
    held(images)
    held.to('cpu').float()
    for name, parameter in held.named_parameters():
        assert torch.equal(parameter, expected[name]), name
    held(images)
    assert_same_state(held, expected)
    held.double()
    for name, tensor in held.state_dict().items():
        assert tensor.dtype == torch.float64 and torch.equal(tensor, expected[name].double()), name


def test_copies_have_their_own_originals(pair, images):
    plain, held = pair
    held(images)
    twin = copy.deepcopy(held)
    expected = plain.state_dict()
    assert_same_state(twin, expected)
    for tensor in held.state_dict().values():
        tensor.zero_()
    assert_same_state(twin, expected)
    assert twin(images)[0].count_nonzero()


def test_a_second_initialisation_starts_from_fp32(images):
    held = tiny_backbone(frozen_stages='all', frozen_dtype='bfloat16')
    held(images)
    held._is_init = False
    held.init_weights()
    weight = held.blocks[0].attn.qkv.weight
    assert weight.dtype == torch.float32 and torch.equal(
        held.state_dict()['blocks.0.attn.qkv.weight'], weight
    )
    assert not torch.equal(weight, weight.bfloat16().float())  # drawn in fp32, not rounded
