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
