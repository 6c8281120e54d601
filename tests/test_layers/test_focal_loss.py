"""The focal loss in two parts against mmdet's loss on one-hot classes."""

import pytest
import torch
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

from mmdet_dinov2.layers import focal_gap, negative_focal_loss


def in_two_parts(logits, classes, alpha, gamma):
    gap = focal_gap(logits[classes], alpha, gamma)
    return negative_focal_loss(logits, alpha, gamma).sum() + gap.sum()


@pytest.mark.parametrize('alpha, gamma', [(0.25, 2.0), (0.6, 1.5), (0.5, 0.0)])
def test_loss_and_gradient_are_those_of_mmdet(alpha, gamma):
    logits = (torch.randn(7, 5) * 6).requires_grad_()
    classes = torch.rand(7, 5) < 0.3
    expected = py_sigmoid_focal_loss(logits, classes, gamma=gamma, alpha=alpha, reduction='sum')
    loss = in_two_parts(logits, classes, alpha, gamma)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    grads = [torch.autograd.grad(value, logits)[0] for value in (loss, expected)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)


def test_queries_have_their_own_loss_and_gradient():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    loss = negative_focal_loss(logits, 0.25, 2.0)
    assert loss.shape == (2, 3)
    (grad,) = torch.autograd.grad(loss[1, 2] * 3, logits)
    (alone,) = torch.autograd.grad(negative_focal_loss(logits[1, 2], 0.25, 2.0), logits)
    torch.testing.assert_close(grad[1, 2], 3 * alone[1, 2])
    assert grad.any(-1).sum() == 1


def test_extreme_logits_have_finite_losses_and_gradients():
    logits = torch.tensor([-1e4, -100.0, -20.0, 20.0, 100.0, 1e4], requires_grad=True)
    loss = focal_gap(logits, 0.25, 2.0).sum() + negative_focal_loss(logits, 0.25, 2.0)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
    # A logit that is far off gets the full gradient.
    (grad,) = torch.autograd.grad(negative_focal_loss(logits, 0.25, 2.0), logits)
    torch.testing.assert_close(grad[-1], torch.tensor(0.75))


def test_one_tensor_of_the_size_of_the_logits_is_kept():
    kept = []
    logits = torch.randn(6, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        negative_focal_loss(logits, 0.25, 2.0)
    assert kept == [logits.shape]


def test_bf16_logits_have_losses_in_fp32():
    logits = torch.randn(4, 3).bfloat16().requires_grad_()
    loss = negative_focal_loss(logits, 0.25, 2.0)
    assert torch.equal(loss, negative_focal_loss(logits.float(), 0.25, 2.0))
    loss.sum().backward()
    assert logits.grad.dtype == torch.bfloat16 and logits.grad.all()
