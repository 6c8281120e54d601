import logging
import re
import warnings

import pytest
import torch
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.registry import MODELS

from mmdet_dinov2.errors import InputError
from mmdet_dinov2.models import deformable_attention
from mmdet_dinov2.models.deformable_attention import (
    DeformableAttention,
    ImplementationChoice,
    _choose,
    choose_implementation,
)

from ..tiny import detector_cfg, randomize

SHAPES = torch.tensor([(7, 5), (3, 4)])
CELLS = 47
STREAMS = ('query', 'value', 'query_pos', 'reference_points')


def inputs(num_queries=11, batch=2, coordinates=4, dims=24):
    """Makes a batch of images of one size, as mmcv's module takes it."""
    return dict(
        query=torch.randn(batch, num_queries, dims),
        value=torch.randn(batch, CELLS, dims),
        query_pos=torch.randn(batch, num_queries, dims),
        reference_points=torch.rand(batch, num_queries, 2, coordinates),
        spatial_shapes=SHAPES,
        level_start_index=torch.tensor([0, 35]),
    )


def as_streams(arguments):
    """Turns the batch into streams, as our module takes them."""
    batch, num_queries = arguments['query'].shape[:2]
    streams = {name: arguments[name].flatten(0, 1) for name in STREAMS}
    shapes = arguments['spatial_shapes']
    images = torch.arange(batch, device=shapes.device).repeat_interleave(num_queries)
    return dict(streams, spatial_shapes=shapes.expand(batch, -1, -1), query_images=images)


def pair(**kwargs):
    """Builds mmcv's module and ours with the same weights."""
    options = dict(embed_dims=24, num_heads=3, num_levels=2, num_points=3, dropout=0.0)
    theirs = randomize(MultiScaleDeformableAttention(**options, batch_first=True))
    ours = DeformableAttention(**options, **kwargs)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize('coordinates', [2, 4])
def test_equals_mmcv_with_gradients(coordinates):
    arguments = inputs(coordinates=coordinates)
    theirs, ours = pair()
    expected = theirs(**arguments).flatten(0, 1)
    got = ours(**as_streams(arguments))
    results = []
    for module, output in ((theirs, expected), (ours, got)):
        output.square().sum().backward()
        results.append([output, *(p.grad for p in module.parameters())])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_images_of_different_sizes_do_not_see_each_other():
    _, ours = pair()
    alone = [as_streams(inputs(batch=1)), as_streams(inputs(batch=1, num_queries=5))]
    alone[1]['spatial_shapes'] = torch.tensor([[(4, 2), (1, 3)]])
    alone[1]['value'] = alone[1]['value'][:11]
    together = {name: torch.cat([part[name] for part in alone]) for name in alone[0]}
    together['query_images'] = torch.tensor([0] * 11 + [1] * 5)
    expected = torch.cat([ours(**part) for part in alone])
    torch.testing.assert_close(ours(**together), expected, rtol=1e-4, atol=1e-5)


def test_initial_values_are_those_of_mmcv():
    torch.manual_seed(3)
    theirs = MultiScaleDeformableAttention()
    torch.manual_seed(3)
    ours = DeformableAttention()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_values_alone_are_rounded_under_autocast(monkeypatch):
    seen = []
    function = deformable_attention.deformable_attention
    spy = lambda *args: seen.append(args) or function(*args)  # noqa: E731
    monkeypatch.setattr(deformable_attention, 'deformable_attention', spy)
    arguments = inputs()
    theirs, ours = pair()
    exact = ours(**as_streams(arguments))
    with torch.autocast('cpu', torch.bfloat16):
        rounded = ours(**as_streams(arguments))
        theirs_rounded = theirs(**arguments).flatten(0, 1)
    (_, _, *exact_points, _, _), (value, _, *points, _, _) = seen
    assert value.dtype == torch.bfloat16
    torch.testing.assert_close(points, exact_points, rtol=0, atol=0)
    assert (rounded - exact).norm() < 0.8 * (theirs_rounded - exact).norm()


def test_no_queries():
    _, ours = pair()
    assert ours(**as_streams(inputs(num_queries=0))).shape == (0, 24)


def test_the_kernels_serve_the_module():
    if torch.cuda.is_available():
        pytest.skip("needs Triton's interpreter, which is off where there is a GPU")
    _, ours = pair()
    _, by_kernels = pair(implementation='triton')
    by_kernels.load_state_dict(ours.state_dict())
    arguments = as_streams(inputs(num_queries=2, batch=1))
    torch.testing.assert_close(by_kernels(**arguments), ours(**arguments), rtol=1e-4, atol=1e-4)


def test_reference_points_must_be_points_or_boxes():
    _, ours = pair()
    with pytest.raises(ValueError, match=r'got \(22, 2, 3\)'):
        ours(**as_streams(inputs(coordinates=3)))


def implementations(cfg):
    """Returns the implementations in the layers of a detector."""
    modules = MODELS.build(cfg).modules()
    return [m.implementation for m in modules if isinstance(m, MultiScaleDeformableAttention)]


def test_the_setting_of_the_detector_reaches_every_layer():
    """One encoder layer, two decoder layers."""
    assert implementations(detector_cfg()) == ['auto'] * 3
    assert implementations({**detector_cfg(), 'deformable_attention': 'pytorch'}) == ['pytorch'] * 3
    cfg = {**detector_cfg(), 'deformable_attention': 'pytorch'}
    cfg['encoder']['deformable_attention'] = 'triton'
    assert implementations(cfg) == ['triton', 'pytorch', 'pytorch']
    with pytest.raises(InputError, match="got 'cuda'"):
        MODELS.build({**detector_cfg(), 'deformable_attention': 'cuda'})


def test_what_cannot_run_is_named():
    cpu = torch.device('cpu')
    assert choose_implementation(cpu).name == 'pytorch'
    assert 'cpu is not a GPU' in choose_implementation(cpu).reason
    with pytest.raises(InputError, match="'mmcv' on cpu: its operator needs CUDA; 'auto' chooses"):
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
    assert ordered.name == 'pytorch' and 'varying order' in ordered.reason


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_all_implementations_agree_on_a_gpu():
    _, ours = pair()
    arguments = as_streams(inputs())
    expected = ours(**arguments)
    ours.cuda()
    arguments = {name: t.cuda() for name, t in arguments.items()}
    for implementation in ('auto', 'triton', 'pytorch', 'mmcv'):
        ours.implementation = implementation
        try:
            got = ours(**arguments)
        except InputError as error:
            warnings.warn(str(error), stacklevel=1)
            continue
        torch.testing.assert_close(got.cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(('name', 'level'), [('triton', 'INFO'), ('pytorch', 'WARNING')])
def test_what_runs_on_a_gpu_is_logged_once(monkeypatch, name, level):
    lines = []
    monkeypatch.setattr(
        deformable_attention, 'print_log', lambda text, logger, level: lines.append((text, level))
    )
    choice = ImplementationChoice(name, 'a reason')
    for _ in range(2):
        deformable_attention._log_once(choice, torch.device('cuda:0'), torch.bfloat16)
    assert lines == [
        (f'Deformable attention on cuda:0 in bfloat16: {name} (a reason)', getattr(logging, level))
    ]
