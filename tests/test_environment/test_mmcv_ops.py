"""Operators of mmcv without a compiler, against slow references."""

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mmdet_dinov2_mmcv_ops as ops
from mmdet_dinov2_mmcv_ops import NAME, StandIn, StandInFinder

from ..tools import ROOT

TORCH = Path(torch.__file__).parents[1]


@pytest.fixture(scope='module')
def stand_in():
    finder = StandInFinder()
    module = finder.create_module(finder.find_spec(NAME))
    finder.exec_module(module)
    return module


@pytest.fixture
def served(stand_in):
    """The operators by name."""
    return vars(stand_in)


@pytest.fixture(autouse=True)
def use_the_stand_in(monkeypatch, stand_in):
    """Lets mmcv's Python code call it, also in an environment with compiled operators."""
    importlib.import_module('mmcv.ops')
    for name in ('nms', 'roi_align', 'roi_pool', 'deform_conv', 'modulated_deform_conv'):
        monkeypatch.setattr(sys.modules[f'mmcv.ops.{name}'], 'ext_module', stand_in)


def iou(a, b, offset):
    """Overlap of two boxes whose sides are x2 - x1 + offset."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    inter = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return inter / (sum(areas) - inter)


@pytest.mark.parametrize('offset', [0, 1])
def test_nms_keeps_what_the_definition_keeps(served, offset):
    boxes = torch.rand(60, 4) * 20
    boxes[:, 2:] += boxes[:, :2]
    scores = torch.rand(60)
    kept = []
    for i in scores.argsort(descending=True).tolist():
        if all(iou(boxes[i].tolist(), boxes[j].tolist(), offset) <= 0.4 for j in kept):
            kept.append(i)
    assert 1 < len(kept) < 60
    assert served['nms'](boxes, scores, iou_threshold=0.4, offset=offset).tolist() == kept


def test_the_documented_example_of_nms():
    from mmcv.ops import nms

    boxes = torch.tensor(
        [[49.1, 32.4, 51.0, 35.9], [49.3, 32.9, 51.0, 35.3], [49.2, 31.8, 51.0, 35.4],
         [35.1, 11.5, 39.1, 15.7], [35.6, 11.8, 39.3, 14.2], [35.3, 11.5, 39.9, 14.5],
         [35.2, 11.7, 39.7, 15.7]]
    )  # fmt: skip
    scores = torch.tensor([0.9, 0.9, 0.5, 0.5, 0.5, 0.4, 0.3])
    detections, indices = nms(boxes, scores, 0.6)
    assert len(indices) == len(detections) == 3


def roi_align_of_the_definition(x, roi, size, scale, ratio, aligned):
    """Mean of ratio x ratio bilinear samples in each bin (Mask R-CNN, section 3)."""
    shift = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (value * scale - shift for value in roi)
    width, height = x2 - x1, y2 - y1
    if not aligned:
        width, height = max(width, 1.0), max(height, 1.0)
    out = torch.zeros(x.shape[0], *size, dtype=x.dtype)
    for row in range(size[0]):
        for column in range(size[1]):
            for i in range(ratio):
                for j in range(ratio):
                    v = y1 + height / size[0] * (row + (i + 0.5) / ratio)
                    u = x1 + width / size[1] * (column + (j + 0.5) / ratio)
                    out[:, row, column] += bilinear(x, v, u) / ratio**2
    return out


def bilinear(x, v, u):
    rows, columns = x.shape[1:]
    if not (-1 <= v <= rows and -1 <= u <= columns):
        return 0.0
    v, u = (min(max(p, 0.0), n - 1.0) for p, n in ((v, rows), (u, columns)))
    top, left = int(v), int(u)
    bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
    dv, du = v - top, u - left
    upper = x[:, top, left] * (1 - du) + x[:, top, right] * du
    lower = x[:, bottom, left] * (1 - du) + x[:, bottom, right] * du
    return upper * (1 - dv) + lower * dv


@pytest.mark.parametrize('aligned', [True, False])
def test_roi_align_and_its_gradient(aligned):
    from mmcv.ops import roi_align

    x = torch.randn(1, 2, 9, 13, dtype=torch.float64, requires_grad=True)
    roi = [3.0, 5.0, 41.0, 30.0]
    rois = torch.tensor([[0, *roi]], dtype=torch.float64)
    fast = roi_align(x, rois, (3, 2), 0.25, 2, 'avg', aligned)[0]
    slow = roi_align_of_the_definition(x[0], roi, (3, 2), 0.25, 2, aligned)
    torch.testing.assert_close(fast, slow)
    weight = torch.randn_like(slow)
    fast_grad = torch.autograd.grad((fast * weight).sum(), x)
    torch.testing.assert_close(fast_grad, torch.autograd.grad((slow * weight).sum(), x))


@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('aligned', [True, False])
def test_roi_align_equals_the_compiled_operator(monkeypatch, aligned, sampling_ratio):
    compiled = importlib.import_module(NAME)
    if getattr(compiled, 'is_stand_in', False):
        pytest.skip("mmcv's operators are not compiled in this environment")
    from mmcv.ops import roi_align

    x = torch.randn(2, 3, 17, 23, requires_grad=True)
    corners = torch.rand(9, 2, 2).sort(1).values * torch.tensor([110.0, 80.0]) - 8
    rois = torch.cat((torch.randint(2, (9, 1)).float(), corners.flatten(1)), dim=1)
    results = []
    for module in (sys.modules['mmcv.ops.roi_align'].ext_module, compiled):
        monkeypatch.setattr(sys.modules['mmcv.ops.roi_align'], 'ext_module', module)
        out = roi_align(x, rois, (7, 5), 0.25, sampling_ratio, 'avg', aligned)
        results.append((out, torch.autograd.grad(out.square().sum(), x)[0]))
    assert results[0][0].abs().max() > 0.1
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_roi_pool_and_its_gradient():
    """Cells of whole numbers: the largest value of each bin gets its gradient."""
    from mmcv.ops import roi_pool

    x = torch.randperm(48).reshape(1, 2, 4, 6).double().requires_grad_()
    pooled = roi_pool(x, torch.tensor([[0.0, 0, 0, 5, 3]], dtype=torch.float64), (2, 3), 1.0)
    bins = x[0].unflatten(2, (3, 2)).unflatten(1, (2, 2))  # (2, rows, 2, columns, 2)
    expected = bins.amax((2, 4))
    torch.testing.assert_close(pooled[0], expected)
    weight = torch.randn_like(expected)
    grad = torch.autograd.grad((pooled[0] * weight).sum(), x)
    torch.testing.assert_close(grad, torch.autograd.grad((expected * weight).sum(), x))


def test_roi_align_of_maxima_is_refused(served):
    x, rois = torch.zeros(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 2, 2]])
    out, empty = torch.zeros(1, 1, 2, 2), torch.zeros(0)
    with pytest.raises(NotImplementedError, match="pool_mode='max'.* is not compiled"):
        served['roi_align_forward'](
            x, rois, out, empty, empty, aligned_height=2, aligned_width=2, spatial_scale=1.0,
            sampling_ratio=2, pool_mode=0, aligned=True,
        )  # fmt: skip


def test_an_offset_of_zero_is_a_convolution():
    from mmcv.ops import deform_conv2d, modulated_deform_conv2d

    x = torch.randn(2, 4, 7, 9, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    offset = torch.zeros(2, 2 * 9, 4, 5, dtype=torch.float64)
    plain = torch.nn.functional.conv2d(x, weight, None, 2, 1, 1, 2)
    direction = torch.randn_like(plain)
    expected = torch.autograd.grad((plain * direction).sum(), (x, weight))
    got = deform_conv2d(x, offset, weight, (2, 2), (1, 1), (1, 1), 2, 1)
    torch.testing.assert_close(got, plain)
    grads = torch.autograd.grad((got * direction).sum(), (x, weight))
    torch.testing.assert_close(grads, expected)

    mask = torch.full((2, 9, 4, 5), 0.5, dtype=torch.float64)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
    got = modulated_deform_conv2d(x, offset, mask, weight, bias, (2, 2), (1, 1), (1, 1), 2, 1)
    torch.testing.assert_close(got, plain / 2 + bias[:, None, None])
    (grad,) = torch.autograd.grad((got * direction).sum(), bias)
    torch.testing.assert_close(grad, direction.sum((0, 2, 3)))


def test_focal_loss_of_the_definition(served):
    logits = torch.randn(9, 4, dtype=torch.float64)
    target = torch.tensor([0, 1, 2, 3, 4, 4, 0, 3, 2])  # 4: background
    weight = torch.rand(4, dtype=torch.float64)
    alpha, gamma = 0.25, 2.0
    expected = torch.zeros_like(logits)
    for i in range(9):
        for c in range(4):
            p = torch.sigmoid(logits[i, c])
            if target[i] == c:
                value = -alpha * (1 - p) ** gamma * p.log()
            else:
                value = -(1 - alpha) * p**gamma * (1 - p).log()
            expected[i, c] = value
    out = torch.zeros_like(logits)
    served['sigmoid_focal_loss_forward'](logits, target, weight[:0], out, gamma=gamma, alpha=alpha)
    torch.testing.assert_close(out, expected)

    grad = torch.zeros_like(logits)
    served['sigmoid_focal_loss_backward'](
        logits, target, weight[:0], grad, gamma=gamma, alpha=alpha
    )
    step = 1e-6
    above, below = torch.zeros_like(logits), torch.zeros_like(logits)
    for shifted, result in ((logits + step, above), (logits - step, below)):
        served['sigmoid_focal_loss_forward'](
            shifted, target, weight[:0], result, gamma=gamma, alpha=alpha
        )
    torch.testing.assert_close(grad, (above - below) / (2 * step), rtol=1e-5, atol=1e-7)


def test_deformable_attention_is_mmcvs_pytorch_version(served):
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    shapes = torch.tensor([[4, 5], [2, 3]])
    inputs = [
        torch.randn(1, 26, 2, 4),
        torch.rand(1, 3, 2, 2, 2, 2),
        torch.rand(1, 3, 2, 2, 2),
    ]
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    expected = multi_scale_deformable_attn_pytorch(leaves[0], shapes, *leaves[1:])
    value, locations, weights = inputs
    starts = torch.tensor([0, 20])
    got = served['ms_deform_attn_forward'](
        value, shapes, starts, locations, weights, im2col_step=64
    )
    torch.testing.assert_close(got, expected.detach())
    direction = torch.randn_like(got)
    grads = [torch.zeros_like(tensor) for tensor in inputs]
    served['ms_deform_attn_backward'](
        value, shapes, starts, locations, weights, direction, *grads, im2col_step=64
    )
    torch.testing.assert_close(
        tuple(grads), torch.autograd.grad((expected * direction).sum(), leaves)
    )


def test_every_other_operator_says_its_name_and_the_command():
    module = StandIn(NAME)
    with pytest.raises(NotImplementedError, match="'box_iou_rotated'.*make env MMCV_OPS=cpu"):
        module.box_iou_rotated(1, key=2)
    assert not hasattr(module, '__path__')


@pytest.mark.slow
def test_a_compiled_module_is_found_first(tmp_path):
    """A module of that name on the disk stands for one that was compiled."""
    package = tmp_path / 'mmcv'
    package.mkdir()
    (package / '__init__.py').write_text('')
    code = (
        'import mmdet_dinov2_mmcv_ops, mmcv._ext; '
        "print(getattr(mmcv._ext, 'is_stand_in', False), mmcv._ext.__spec__.origin)"
    )

    def imported():
        result = subprocess.run(
            [sys.executable, '-c', code],
            env=dict(PYTHONPATH=f'{tmp_path}:{ROOT}', PATH=''),
            capture_output=True,
            text=True,
            check=True,
        )
        return result.stdout

    assert imported().startswith('True ')
    (package / '_ext.py').write_text('')
    assert imported() == f'False {package / "_ext.py"}\n'


@pytest.mark.slow
def test_every_python_of_an_environment_finds_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ops.sysconfig, 'get_path', lambda name: str(tmp_path))
    ops.write_pth()
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv/__init__.py').write_text('')

    def imported(path):
        code = f'import site; site.addsitedir({str(tmp_path)!r}); import mmcv._ext'
        return subprocess.run(
            [sys.executable, '-S', '-c', code],
            cwd=tmp_path,
            env=dict(PYTHONPATH=f'{path}:{TORCH}', PATH=''),
            capture_output=True,
            text=True,
        )

    assert imported(ROOT).returncode == 0
    gone = imported(tmp_path)
    assert "No module named 'mmcv._ext'" in gone.stderr
    assert 'Error processing line' not in gone.stderr


def test_other_modules_are_left_alone():
    assert StandInFinder().find_spec('mmcv._other') is None
    assert importlib.util.find_spec('mmcv._other') is None
