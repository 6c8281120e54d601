"""Corners and GIoU of boxes are those of mmdet."""

import torch
from mmdet.models.losses.iou_loss import giou_loss as mmdets
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy

from mmdet_dinov2.layers.boxes import corners_of, giou_loss


def test_corners():
    boxes = torch.rand(2, 3, 4)
    assert torch.equal(corners_of(boxes), bbox_cxcywh_to_xyxy(boxes))


def test_giou_and_its_gradient():
    boxes = torch.rand(2, 40, 4) * 50
    boxes[0, :2] = boxes[1, :2]
    boxes[0, 2, 2:] = 0  # no area
    boxes[:, 3, 2:] = 0
    predicted, wanted = corners_of(boxes)
    predicted.requires_grad_()
    losses = giou_loss(predicted, wanted), mmdets(predicted, wanted, reduction='none')
    torch.testing.assert_close(*losses)
    # Where boxes are equal or empty, one of several subgradients is taken.
    grads = [torch.autograd.grad(loss[4:].sum(), predicted)[0] for loss in losses]
    torch.testing.assert_close(*grads)


def test_the_backward_pass_does_not_wait():
    predicted = torch.rand(5, 4, requires_grad=True)
    loss = giou_loss(predicted, torch.rand(5, 4)).sum()
    # Not a mode that sees each operator: under one, PyTorch takes other backward passes.
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        loss.backward()
    assert 'aten::item' not in {event.name for event in profile.events()}
