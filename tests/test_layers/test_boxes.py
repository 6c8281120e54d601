"""Corners and GIoU of boxes are those of mmdet."""

import torch
from mmdet.models.losses.iou_loss import giou_loss as mmdets
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps

from mmdet_dinov2.layers.boxes import corners_of, giou_loss, iou_of_pairs


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


def test_iou_of_pairs():
    boxes, others = (corners_of(torch.rand(50, 4)) * 100 for _ in range(2))
    boxes[0], boxes[1], others[2] = others[0], others[1] + 500, 7.0  # equal, apart, without area
    found = iou_of_pairs(boxes, others)
    torch.testing.assert_close(found, bbox_overlaps(boxes, others, is_aligned=True))
    assert found[0] == 1 and found[1] == 0 and 0 < found.max() <= 1
    assert iou_of_pairs(boxes[:0], others[:0]).shape == (0,)
