"""The model that is exported against the detector, in PyTorch."""

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from pycocotools import mask as coco_mask

from mmdet_dinov2.errors import InputError
from mmdet_dinov2.export.comparing import first_divergence
from mmdet_dinov2.export.model import ExportModel
from mmdet_dinov2.export.stages import recorded_stages
from mmdet_dinov2.export.ties import given_order
from mmdet_dinov2.models.mask_prediction import masks_from_logits

from ..families import build_family
from ..tiny import ARCH, SHAPES, detector_cfg, randomize, tiny_detector

WINDOWS = dict(window_size=3, global_attn_indexes=(1, 3))
BACKBONES = {
    'plain': dict(),
    'windows': WINDOWS,
    'registers': dict(num_registers=4),
    'DINOv3': dict(type='DINOv3', arch=ARCH, patch_size=16),
    'DINOv3 with windows': dict(type='DINOv3', arch=ARCH, patch_size=16, **WINDOWS),
    'frozen in bf16': dict(frozen_stages='all', frozen_dtype='bfloat16'),
    'swiglu': dict(arch={**ARCH, 'ffn': 'swiglu'}),
}


def build(backbone, **changes):
    cfg = detector_cfg(backbone=backbone)
    for key, value in changes.items():
        cfg[key] = {**cfg.get(key, {}), **value} if isinstance(value, dict) else value
    model = MODELS.build(cfg)
    model.init_weights()
    return randomize(model, std=0.1)


@torch.no_grad()
def check(detector, size, batch=2):
    """The model that is exported detects what the detector detects, stage by stage."""
    model = ExportModel(detector)
    model.with_stages = True
    images = torch.randn(batch, 3, *size)
    boxes, scores, labels, *stages = model(images)
    samples = [DetDataSample(metainfo=dict(img_shape=size)) for _ in images]
    with recorded_stages(detector) as recorded:
        samples = detector.predict(images, samples, rescale=False)
    found = {n: s.numpy() for n, s in zip(model.stage_names, stages)}
    expected = {name: stage.numpy() for name, stage in recorded.items()}
    assert list(expected)[:2] == ['embedding', 'block 0'] and set(expected) < set(found)
    assert first_divergence(expected, found, 2e-5) is None
    for index, sample in enumerate(samples):
        known = sample.pred_instances
        torch.testing.assert_close(scores[index], known.scores, rtol=0, atol=1e-5)
        assert torch.equal(labels[index], known.labels)
        torch.testing.assert_close(boxes[index], known.bboxes, rtol=0, atol=1e-3)
        assert known.bboxes.std(0).min() > 1  # the boxes differ, or the test could not fail
    return model


@pytest.mark.parametrize('name', BACKBONES)
def test_the_exported_model_detects_the_same(name):
    torch.manual_seed(0)
    detector = build(BACKBONES[name])
    check(detector, (131, 117))
    assert all(p.dtype == torch.float32 for p in detector.parameters())


@pytest.mark.parametrize('size', [(112, 112), (57, 203)])
def test_sizes(size):
    torch.manual_seed(0)
    check(build({}), size, batch=3)


@pytest.mark.parametrize('shape', SHAPES)
def test_other_shapes_of_the_model(shape):
    torch.manual_seed(0)
    check(tiny_detector(**SHAPES[shape]).eval(), (131, 117))


def test_coordinates_of_the_grids():
    torch.manual_seed(0)
    detector = build({}, neck=dict(pooling='floor', mapper_groups=4), coordinates='grid')
    check(detector, (131, 117))


@pytest.mark.parametrize('backbone', ['windows', 'DINOv3'])
@torch.no_grad()
def test_masks(backbone):
    torch.manual_seed(0)
    detector = build(BACKBONES[backbone], mask_head=dict(mask_dims=8))
    model, size = ExportModel(detector), (131, 117)
    images = torch.randn(2, 3, *size)
    samples = [DetDataSample(metainfo=dict(img_shape=size)) for _ in images]
    with recorded_stages(detector) as recorded:
        samples = detector.predict(images, samples, rescale=False)
    assert 'pixel embedding' in recorded
    boxes, _, _, logits = model(images)
    cells = (2 * -int(-side // (2 * model.mask_stride)) for side in size)
    assert logits.shape == (2, 20, *cells)
    cell = torch.full((2,), model.mask_stride)
    for of_image, image_boxes, sample in zip(logits, boxes, samples, strict=True):
        found = masks_from_logits(of_image, cell, image_boxes, size)
        known = sample.pred_instances.masks
        areas = coco_mask.area(known)
        # Masks differ from their boxes, or the test could not fail.
        assert (areas < 0.9 * coco_mask.area(coco_mask.encode(_filled(known)))).any()
        for ours, theirs, area in zip(found, known, areas, strict=True):
            assert area == 0 or coco_mask.iou([ours], [theirs], [0])[0, 0] > 0.99


def _filled(masks):
    """Fills the bounding boxes of masks, as COCO wants them."""
    filled = np.zeros((*masks[0]['size'], len(masks)), np.uint8, order='F')
    for index, (x, y, w, h) in enumerate(coco_mask.toBbox(masks).astype(int).tolist()):
        filled[y : y + h, x : x + w, index] = 1
    return filled


def test_masks_on_grids_that_images_do_not_fill_are_refused():
    detector = build(
        {}, neck=dict(pooling='floor', mapper_groups=4), coordinates='grid', mask_head=dict()
    )
    with pytest.raises(InputError, match="coordinates='image' only"):
        ExportModel(detector)


def test_more_queries_than_proposals():
    torch.manual_seed(0)
    check(build({}, num_queries=150, test_cfg=dict(max_per_img=40)), (70, 70))


@torch.no_grad()
def test_the_order_of_the_proposals_can_be_given():
    torch.manual_seed(0)
    detector = build({})
    model = ExportModel(detector)
    model.with_stages = True
    images, size = torch.randn(2, 3, 120, 90), (120, 90)
    outputs = model(images)
    order = dict(zip(model.stage_names, outputs[3:]))['order']

    def predicted():
        samples = [DetDataSample(metainfo=dict(img_shape=size)) for _ in images]
        with recorded_stages(detector) as stages:
            samples = detector.predict(images, samples, rescale=False)
        return stages['proposals'], torch.stack([s.pred_instances.scores for s in samples])

    proposals, scores = predicted()
    with given_order(detector, order) as same:
        given = predicted()
    assert torch.equal(given[0], proposals) and torch.equal(given[1], scores)
    with given_order(detector, order.flip(1)) as other:
        assert torch.equal(predicted()[0], proposals.flip(1))
    assert max(same) < 1e-5 < 0.01 < max(other)
    with given_order(detector, order + 10**6) as lacking:
        predicted()
    assert lacking == [float('inf')]
    assert torch.equal(predicted()[1], scores)


def test_other_detectors_are_refused():
    with pytest.raises(InputError, match='only detectors of type PaddingAwareDINO'):
        ExportModel(build_family('RetinaNet'))


def test_parameters_are_shared_not_copied():
    detector = build({})
    model = ExportModel(detector)
    own = {p.data_ptr() for p in detector.parameters()}
    assert {p.data_ptr() for p in model.parameters()} == own
    assert np.all([not p.requires_grad for p in model.parameters()])
