import logging
import re
import warnings

import pytest
import torch
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.registry import MODELS

from mmdet_dinov2.errors import InputError
from mmdet_dinov2.models import DeformableAttention, deformable_attention
from mmdet_dinov2.models.deformable_attention import (
    _choose,
    choose_implementation,
    use_deformable_attention,
)

from ..tiny import detector_cfg, randomize, tiny_detector

SHAPES = torch.tensor([(7, 5), (3, 4)])
CELLS = 47


def inputs(num_queries=11, batch=2, coordinates=4, dims=24):
    """Arguments of ``forward``, batch first."""
    return dict(
        query=torch.randn(batch, num_queries, dims),
        value=torch.randn(batch, CELLS, dims),
        query_pos=torch.randn(batch, num_queries, dims),
        key_padding_mask=torch.rand(batch, CELLS) < 0.2,
        reference_points=torch.rand(batch, num_queries, 2, coordinates),
        spatial_shapes=SHAPES,
        level_start_index=torch.tensor([0, 35]),
    )


def pair(**kwargs):
    """mmcv's module and ours with the same weights."""
    options = dict(embed_dims=24, num_heads=3, num_levels=2, num_points=3, dropout=0.0, **kwargs)
    theirs = randomize(MultiScaleDeformableAttention(**options))
    ours = MODELS.build(dict(type='DeformableAttention', **options))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize('coordinates', [2, 4])
@pytest.mark.parametrize('batch_first', [True, False])
def test_equals_mmcv_with_gradients(coordinates, batch_first):
    arguments = inputs(coordinates=coordinates)
    if not batch_first:
        for name in ('query', 'value', 'query_pos'):
            arguments[name] = arguments[name].transpose(0, 1)
    results = []
    for module in pair(batch_first=batch_first):
        output = module(**arguments)
        output.square().sum().backward()
        results.append([output, *(p.grad for p in module.parameters())])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_initial_values_are_those_of_mmcv():
    torch.manual_seed(3)
    theirs = MultiScaleDeformableAttention(batch_first=True)
    torch.manual_seed(3)
    ours = DeformableAttention(batch_first=True)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_values_alone_are_rounded_under_autocast(monkeypatch):
    seen = []
    function = deformable_attention.deformable_attention
    spy = lambda *args: seen.append(args) or function(*args)  # noqa: E731
    monkeypatch.setattr(deformable_attention, 'deformable_attention', spy)
    arguments = inputs()
    theirs, ours = pair(batch_first=True)
    exact = ours(**arguments)
    with torch.autocast('cpu', torch.bfloat16):
        rounded, theirs_rounded = ours(**arguments), theirs(**arguments)
    (_, _, *exact_points, _, _), (value, _, *points, _, _) = seen
    assert value.dtype == torch.bfloat16
    torch.testing.assert_close(points, exact_points, rtol=0, atol=0)
    assert (rounded - exact).norm() < 0.8 * (theirs_rounded - exact).norm()


def test_no_queries():
    _, ours = pair(batch_first=True)
    assert ours(**inputs(num_queries=0)).shape == (2, 0, 24)


def test_the_kernels_serve_the_module():
    if torch.cuda.is_available():
        pytest.skip("needs Triton's interpreter, which is off where there is a GPU")
    _, ours = pair(batch_first=True)
    arguments = inputs(num_queries=2, batch=1)
    expected = ours(**arguments)
    use_deformable_attention(ours, 'triton')
    torch.testing.assert_close(ours(**arguments), expected, rtol=1e-4, atol=1e-4)


def test_reference_points_must_be_points_or_boxes():
    _, ours = pair(batch_first=True)
    with pytest.raises(ValueError, match=r'got \(22, 2, 3\)'):
        ours(**inputs(coordinates=3))


def test_the_detector_uses_it_everywhere():
    detector = tiny_detector()
    modules = [m for m in detector.modules() if isinstance(m, MultiScaleDeformableAttention)]
    assert len(modules) == 3  # one encoder layer, two decoder layers
    assert {(type(m), m.implementation) for m in modules} == {(DeformableAttention, 'auto')}
    chosen = MODELS.build({**detector_cfg(), 'deformable_attention': 'pytorch'})
    modules = [m for m in chosen.modules() if isinstance(m, DeformableAttention)]
    assert [m.implementation for m in modules] == ['pytorch'] * 3
    with pytest.raises(InputError, match="got 'cuda'"):
        MODELS.build({**detector_cfg(), 'deformable_attention': 'cuda'})


def test_modules_of_mmcv_keep_their_parameters():
    theirs, _ = pair(batch_first=True)
    arguments = inputs()
    before, parameters = theirs(**arguments), dict(theirs.named_parameters())
    assert use_deformable_attention(torch.nn.Sequential(theirs)) == 1
    assert type(theirs) is DeformableAttention
    assert all(p is parameters[name] for name, p in theirs.named_parameters())
    torch.testing.assert_close(theirs(**arguments), before, rtol=1e-4, atol=1e-4)


def test_what_cannot_run_is_said():
    cpu = torch.device('cpu')
    assert choose_implementation(cpu).name == 'pytorch'
    assert 'cpu is no GPU' in choose_implementation(cpu).reason
    with pytest.raises(InputError, match="'mmcv' on cpu: it is an operator for CUDA; 'auto' takes"):
        choose_implementation(cpu, requested='mmcv')
    with pytest.raises(InputError, match="'triton' on cpu: .* float64"):
        choose_implementation(cpu, torch.float64, 'triton')
    with pytest.raises(InputError, match="got 'fast'"):
        DeformableAttention(implementation='fast')


@pytest.mark.parametrize(
    'triton, cuda, expected, reason',
    [
        (None, '13.0', 'triton', 'compile and run'),
        (
            'no C compiler',
            '13.0',
            'mmcv',
            'triton: no C compiler; mmcv was compiled with CUDA 13.0',
        ),
        ('no driver', 'not available', 'pytorch', 'triton: no driver; mmcv: .* without CUDA'),
    ],
)
def test_the_first_that_runs_on_cuda_is_taken(monkeypatch, triton, cuda, expected, reason):
    monkeypatch.setattr(deformable_attention, 'triton_problem', lambda device, dtype: triton)
    monkeypatch.setattr(deformable_attention, 'get_compiling_cuda_version', lambda: cuda)
    gpu = torch.device('cuda', 0)
    choice = _choose.__wrapped__(gpu, torch.bfloat16, 'auto', False)
    assert choice.name == expected
    assert re.search(reason, choice.reason)
    ordered = _choose.__wrapped__(gpu, torch.bfloat16, 'auto', True)
    assert ordered.name == 'pytorch' and 'no fixed order' in ordered.reason


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_all_implementations_agree_on_a_gpu():
    theirs, ours = pair(batch_first=True)
    arguments = {name: t.cuda() for name, t in inputs().items()}
    expected = ours(**{name: t.cpu() for name, t in arguments.items()})
    ours.cuda()
    for implementation in ('auto', 'triton', 'pytorch', 'mmcv'):
        use_deformable_attention(ours, implementation)
        try:
            got = ours(**arguments)
        except InputError as error:
            warnings.warn(str(error), stacklevel=1)
            continue
        torch.testing.assert_close(got.cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(('name', 'level'), [('triton', 'INFO'), ('pytorch', 'WARNING')])
def test_what_runs_on_a_gpu_is_told_once(monkeypatch, name, level):
    lines = []
    monkeypatch.setattr(
        deformable_attention, 'print_log', lambda text, logger, level: lines.append((text, level))
    )
    choice = deformable_attention.Choice(name, 'a reason')
    for _ in range(2):
        deformable_attention._log_once(choice, torch.device('cuda:0'), torch.bfloat16)
    assert lines == [
        (f'Deformable attention on cuda:0 in bfloat16: {name} (a reason)', getattr(logging, level))
    ]
