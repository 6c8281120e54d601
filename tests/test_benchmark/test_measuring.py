"""Times in turns, counted operations, isolated processes, the stock detector."""

import importlib
import re
import subprocess
from functools import partial

import pytest
import torch
from mmdet.models.detectors import DINO
from mmdet.models.losses import FocalLoss
from mmdet.registry import MODELS
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmdet_dinov2.benchmark.detectors import DetectorSpec, build_detector, stock_detector_config
from mmdet_dinov2.benchmark.flops import count_flops, deformable_flops
from mmdet_dinov2.benchmark.isolated import CaseError, run_isolated
from mmdet_dinov2.benchmark.suites.project_configs import QUICKSTART, TINY_OPTIONS
from mmdet_dinov2.benchmark.timing import Spread, measure_in_turns, ratio
from mmdet_dinov2.benchmark.workloads import detr_sizes, random_batch, valid_share
from mmdet_dinov2.config.files import find_config
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.models import DINOv2
from mmdet_dinov2.models.classification_losses import IABCELoss

from ..tiny import ARCH, data_sample, tiny_detector


def test_cases_take_turns_in_alternating_order():
    calls = []
    cases = {name: lambda name=name: calls.append(name) for name in 'ab'}
    times = measure_in_turns(cases, repeats=2, warmup=1)
    assert ''.join(calls) == 'ba' + 'ab' + 'ba'
    assert {name: len(values) for name, values in times.items()} == {'a': 2, 'b': 2}
    with pytest.raises(ValueError, match='repeats must be at least 1'):
        measure_in_turns(cases, repeats=0)


def test_ratio_of_medians():
    assert ratio([2.0, 4.0, 90.0], [1.0, 4.0, 9.0]) == Spread(1.0, 1.5, 6.0, 3)
    with pytest.raises(ValueError, match='but have 1 and 2'):
        ratio([1.0], [1.0, 2.0])


def test_operations_of_a_backbone():
    """Matrix products of linear layers and attention; a multiplication and an addition are two."""
    model = DINOv2(arch=ARCH, img_size=56, patch_size=14).requires_grad_(False)
    flops = count_flops(model, lambda: model(torch.zeros(1, 3, 42, 56)))
    dims, hidden, patches = ARCH['embed_dims'], ARCH['feedforward_channels'], 12
    tokens = patches + 1
    linear = tokens * (4 * dims * dims + 2 * dims * hidden)
    attention = 2 * tokens * tokens * dims
    embedding = patches * 3 * 14 * 14 * dims
    # The 4 x 4 grid of positions becomes 3 x 4, along one axis after the other.
    positions = (3 * 4) * 4 * dims + (3 * 4) * 4 * dims
    assert flops.dense == 2 * (ARCH['num_layers'] * (linear + attention) + embedding + positions)
    assert flops.deformable == 0


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_the_count_of_mmdets_tool_differs_by_attention_and_norms():
    """It counts a multiplication and an addition as one, and operators that it knows."""
    model = tiny_detector().eval().requires_grad_(False)
    image, samples = torch.randn(1, 3, 84, 112), [data_sample(84, 112)]
    ours = count_flops(model, lambda: model.predict(image, samples))
    with FlopCounterMode(display=False) as counter:
        model.predict(image, samples)
    counts = counter.get_flop_counts()['Global']
    # It does not know products of stacked matrices either.
    unknown = sum(n for name, n in counts.items() if re.search('attention|baddbmm', str(name)))
    assert 0 < unknown < ours.dense
    model.forward = partial(model.forward, data_samples=samples)
    theirs = FlopAnalyzer(model, (image,)).by_operator()
    assert set(theirs) == {'linear', 'conv', 'einsum', 'layer_norm'}
    del theirs['layer_norm']
    assert 2 * sum(theirs.values()) == pytest.approx(ours.dense - unknown, rel=1e-3)


def test_operations_of_deformable_attention():
    spec = DetectorSpec(find_config(QUICKSTART), TINY_OPTIONS)
    model = build_detector(spec).eval().requires_grad_(False)
    flops = count_flops(model, lambda: model(torch.zeros(1, 3, 56, 112)))
    # 3 levels of 14, 28 and 56 pixels; 3 levels x 4 points, 8 heads of 16 channels
    queries = 4 * 8 + 2 * 4 + 1 * 2 + 20
    assert flops.deformable == 10 * queries * 8 * 12 * 16 == deformable_flops(queries, 8, 12, 16)


def test_sizes_and_share():
    sizes = detr_sizes(200, seed=1)
    assert sizes == detr_sizes(200, seed=1) != detr_sizes(200, seed=2)
    assert max(map(max, sizes)) <= 1333 and min(map(min, sizes)) >= 480
    assert len({h > w for h, w in sizes}) == 2
    assert valid_share([(28, 28), (14, 42)], 14) == (4 + 3) / (2 * 6)
    batch = random_batch([(50, 70)], num_classes=3, seed=0, boxes=(4, 4))
    boxes = batch['data_samples'][0].gt_instances.bboxes
    assert boxes.shape == (4, 4) and (boxes[:, 2:] >= boxes[:, :2]).all()
    assert (boxes <= torch.tensor([70, 50, 70, 50])).all()


@pytest.mark.slow
def test_a_process_of_its_own():
    assert run_isolated(dict, 120, a=[1, 2]) == {'a': [1, 2]}
    with pytest.raises(CaseError, match='took longer than 0 s'):
        run_isolated(dict, 0.01)


@pytest.mark.slow
def test_variables_of_a_process_of_its_own():
    result = run_isolated(subprocess.getoutput, 100, variables={'SPINS': '7'}, cmd='echo $SPINS')
    assert result == '7'


@pytest.mark.slow
def test_a_failure_in_a_process_of_its_own():
    with pytest.raises(CaseError, match="No module named 'nowhere'"):
        run_isolated(importlib.import_module, 120, name='nowhere')


def test_stock_detector_has_the_same_size():
    spec = DetectorSpec(find_config(QUICKSTART), TINY_OPTIONS)
    ours, stock = (
        build_detector(DetectorSpec(spec.config, spec.options, stock)) for stock in (False, True)
    )
    assert type(stock) is DINO

    def parameters(model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    assert parameters(stock.encoder) == parameters(ours.encoder)
    # Outside the layers, mmdet encodes a box by 512 numbers for every width.
    assert parameters(stock.decoder.layers) == parameters(ours.decoder.layers)
    assert parameters(stock.neck) == parameters(ours.neck)
    assert parameters(stock.backbone) == parameters(ours.backbone)
    # mmdet does not have the loss of the quick start.
    assert type(ours.bbox_head.loss_cls) is IABCELoss
    assert type(stock.bbox_head.loss_cls) is FocalLoss


def test_stock_detector_of_the_published_config(root):
    """mmdet's head and detector do not know its settings."""
    model = Config.fromfile(root / 'configs/dino_dinov2_b_12ep_published.py').model
    with torch.device('meta'):
        stock = MODELS.build(stock_detector_config(model))
    assert type(stock) is DINO and len(stock.neck.mappers) == 4


def test_models_without_a_peer_are_refused():
    path = find_config(QUICKSTART)
    with pytest.raises(InputError, match='does not have a DINOv2 with registers'):
        build_detector(DetectorSpec(path, {'model.backbone.num_registers': 4}, stock=True))
    with pytest.raises(InputError, match='mmpretrain does not have DINOv3 to compare with'):
        build_detector(DetectorSpec(find_config('dino_dinov3_s_12ep'), stock=True))
    with pytest.raises(InputError, match="precision must be .* but is 'int8'"):
        build_detector(DetectorSpec(path, precision='int8'))
